//! Real IPsec: strongSwan at the hub and at its sites, which load the output of `peer-config`.
//!
//! `userspace` uses strongSwan's own ESP, which works on any kernel. `kernel` uses the kernel's, with an xfrm interface
//! per connection; `cargo xtask vm-test` boots a kernel for it if this one cannot. Cases that cannot run here are
//! ignored, and their lines give the missing requirement.

mod bird;
mod cases;
mod certificates;
mod driver;
mod dual;
mod dynamic;
mod ended;
mod failover;
mod findings;
#[path = "../harness/mod.rs"]
mod harness;
mod kernel;
mod learned;
mod mending;
mod mtu;
mod others;
mod path;
mod reasons;
mod record;
mod restart;
mod starter;
mod translate;
mod trap;

use std::process::ExitCode;

use hub_tests::lab::{Bird, Charon, Esp, Frr, Starter};

/// The requirements of a case.
#[derive(Clone, Copy)]
enum Needs {
    StrongSwan,
    /// Also strongSwan's older form.
    Starter,
    KernelEsp,
    /// strongSwan and BIRD.
    Bird,
    KernelEspAndBird,
    KernelEspAndFrr,
    /// Without strongSwan.
    KernelEspAlone,
    /// strongSwan, and only on request.
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
        Needs::Bird => lacks_strongswan.clone().or_else(Bird::missing),
        Needs::KernelEspAndFrr => lacks_strongswan.clone().or_else(|| lacks_esp.clone()).or_else(Frr::missing),
        Needs::KernelEspAndBird => lacks_strongswan.clone().or_else(|| lacks_esp.clone()).or_else(Bird::missing),
    };
    let cases = [
        driver::CASES,
        dual::CASES,
        dynamic::CASES,
        cases::USERSPACE,
        failover::CASES,
        ended::CASES,
        certificates::CASES,
        mending::CASES,
        reasons::CASES,
        findings::CASES,
        starter::CASES,
        kernel::CASES,
        learned::CASES,
        bird::CASES,
        mtu::CASES,
        path::CASES,
        translate::CASES,
        trap::CASES,
        others::CASES,
        record::CASES,
    ];
    harness::run(cases.into_iter().flatten().map(|(needs, name, run)| (lacking(*needs), *name, *run)))
}

type Case = (Needs, &'static str, fn());
