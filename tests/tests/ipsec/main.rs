//! Real IPsec: strongSwan at the hub and at its sites, which load what `peer-config` prints.
//!
//! `userspace` has strongSwan's own ESP, which any kernel will do for; `kernel` has the kernel's, with an xfrm interface
//! for each connection, for which `cargo xtask vm-test` boots a kernel where this one cannot. What cannot run here is
//! ignored, and its line says what it needs.

mod cases;
mod driver;
mod failover;
mod kernel;
mod restart;

use std::process::ExitCode;

use hub_tests::lab::{Charon, Esp};
use libtest_mimic::{Arguments, Failed, Trial};

/// What a case needs.
#[derive(Clone, Copy)]
enum Needs {
    StrongSwan,
    KernelEsp,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacks_strongswan = Charon::missing();
    let lacks_esp = Esp::kernel_lacks().map(|what| format!("needs {what} in the kernel: cargo xtask vm-test"));
    let trial = |needs: Needs, name: &str, run: fn()| {
        let lacking = match needs {
            Needs::StrongSwan => lacks_strongswan.clone(),
            Needs::KernelEsp => lacks_strongswan.clone().or_else(|| lacks_esp.clone()),
        };
        let body = move || {
            run();
            Ok::<(), Failed>(())
        };
        let trial = Trial::test(name, body);
        match lacking {
            // `--ignored` runs it all the same.
            Some(why) => trial.with_kind(why).with_ignored_flag(true),
            None => trial,
        }
    };
    let cases = driver::CASES.iter().chain(cases::USERSPACE).chain(failover::CASES).chain(kernel::CASES);
    let trials = cases.map(|(needs, name, run)| trial(*needs, name, *run)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

type Case = (Needs, &'static str, fn());
