//! Real IPsec: strongSwan at the hub and at its sites, which load what `peer-config` prints.
//!
//! `userspace` has strongSwan's own ESP, which any kernel will do for; `kernel` has the kernel's, with an xfrm interface
//! for each connection, for which `cargo xtask vm-test` boots a kernel where this one cannot. What cannot run here is
//! ignored, and its line says what it needs.

mod cases;
mod certificates;
mod driver;
mod ended;
mod failover;
#[path = "../harness/mod.rs"]
mod harness;
mod kernel;
mod others;
mod record;
mod restart;
mod starter;
mod trap;

use std::process::ExitCode;

use hub_tests::lab::{Charon, Esp, Starter};

/// What a case needs.
#[derive(Clone, Copy)]
enum Needs {
    StrongSwan,
    /// Its older form, too.
    Starter,
    KernelEsp,
    /// Without strongSwan.
    KernelEspAlone,
    /// strongSwan, and to be asked for.
    Recording,
}

fn main() -> ExitCode {
    let lacks_strongswan = Charon::missing();
    let lacks_starter = Starter::missing();
    let lacks_esp = Esp::kernel_lacks().map(|what| format!("needs {what} in the kernel: cargo xtask vm-test"));
    let lacking = |needs: Needs| match needs {
        Needs::StrongSwan => lacks_strongswan.clone(),
        Needs::Starter => lacks_starter.clone(),
        Needs::KernelEspAlone => lacks_esp.clone(),
        Needs::Recording => lacks_strongswan.clone().or_else(record::lacks),
        Needs::KernelEsp => lacks_strongswan.clone().or_else(|| lacks_esp.clone()),
    };
    let cases = [
        driver::CASES,
        cases::USERSPACE,
        failover::CASES,
        ended::CASES,
        certificates::CASES,
        starter::CASES,
        kernel::CASES,
        trap::CASES,
        others::CASES,
        record::CASES,
    ];
    harness::run(cases.into_iter().flatten().map(|(needs, name, run)| (lacking(*needs), *name, *run)))
}

type Case = (Needs, &'static str, fn());
