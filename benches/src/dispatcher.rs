//! Keeps test runs from waiting.
//!
//! A test run that repeats enters its program in the kernel's XDP dispatcher and takes it out again at the end, and
//! each change there waits for an RCU grace period: tens of milliseconds, in which nothing is sent
//! (`bpf_prog_test_run_xdp`, `net/bpf/test_run.c`; `bpf_dispatcher_change_prog`, `kernel/bpf/dispatcher.c`). A program
//! that is attached to some device is in the dispatcher already: then a run only counts up and down.

use anyhow::{Context as _, Result};
use hub_tests::lab::{Namespace, unique_prefix};

use crate::{netdev::Netdev, programs::Programs};

/// A device that nothing is ever sent to.
const DEVICE: &str = "idle0";

/// As long as it lives, the generator stays in the dispatcher. The kernel program must live as long.
pub struct Idle(#[expect(dead_code, reason = "deletes the namespace when dropped")] Namespace);

impl Idle {
    /// Attaches the generator to a device in a namespace of its own.
    pub fn attach(programs: &mut Programs) -> Result<Self> {
        Self::attach_program(programs, "generator")
    }

    /// Attaches another program that generates frames.
    pub fn attach_program(programs: &mut Programs, program: &str) -> Result<Self> {
        let namespace = Namespace::create(&format!("{}-idle", unique_prefix()))?;
        // Down, both ends.
        namespace.ip(&format!("link add {DEVICE} type veth peer name idle1"))?;
        let netdev = Netdev::find(namespace.name(), DEVICE)?;
        programs.attach(program, &netdev).with_context(|| format!("keeping {program} in the dispatcher"))?;
        Ok(Self(namespace))
    }
}
