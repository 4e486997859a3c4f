//! Errors between agent and kernel, with advice for the operator.

use std::{io, path::Path};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use rustix::{io::Errno, thread::CapabilitySet};

use super::{
    Instance,
    attach::{chain, errno},
};

/// The oldest supported and tested kernel, from Debian 12.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(
        "loading a BPF program needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: \
         run as root"
    )]
    Privileges,
    #[error("Linux {release} is too old: VPN-Hub needs {}.{} or later", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    Kernel { release: String },
    #[error("the kernel cannot create a BPF map ({0}): it needs CONFIG_BPF_SYSCALL and enough memory")]
    Load(String),
    #[error(
        "the kernel's verifier rejects the forwarding program ({cause}): please report it with the kernel version; \
         RUST_LOG=debug shows the verifier's log"
    )]
    Verifier { cause: String },
    #[error(
        "another XDP program is attached to the interface: detach it, for example with `ip link set dev NAME xdp off`"
    )]
    Busy,
    #[error("the program cannot be attached to the interface: {0}")]
    Attach(String),
    #[error(
        "the kernel lacks the qdisc clsact or its BPF filters, which TC programs need before Linux 6.6: run \
         `modprobe -a sch_ingress cls_bpf`, and name both modules in a file in /etc/modules-load.d"
    )]
    TcModules,
    #[error("the kernel refuses the program: {0}")]
    Program(String),
    #[error("map {map}: {cause}")]
    Map { map: &'static str, cause: String },
    #[error("map {map} is full: the configuration has more prefixes or neighbours than the {capacity} it holds")]
    MapFull { map: &'static str, capacity: u32 },
    #[error(
        "routes and selectors need more than the {mebibytes} MiB that `lookup_memory` in [dataplane] allows: raise it, or set \
         lookup = \"lpm\" there, which takes less memory and more time for each packet"
    )]
    LookupMemory { mebibytes: u32 },
    #[error("the frame is too long")]
    FrameTooLong,
    #[error(
        "bpffs, which holds the datapath while no agent runs, cannot be mounted ({cause}): \
         run `mount -t bpf bpf /sys/fs/bpf`"
    )]
    Bpffs { cause: String },
    #[error("{path}: {cause}")]
    Pins { path: String, cause: String },
    #[error("an agent of the instance {instance} runs already: stop it first, or choose another --instance")]
    InstanceRuns { instance: Instance },
    #[error(
        "the datapath of the instance {instance} is in another network namespace: choose another --instance, or run \
         `vpnhub cleanup --instance {instance}` there"
    )]
    OtherNamespace { instance: Instance },
    #[error(
        "the datapath of the instance {instance} is in this network namespace: start the agent with --instance \
         {instance}, or run `vpnhub cleanup --instance {instance}`"
    )]
    OtherInstance { instance: Instance },
    #[error("the datapath is of another version: start an agent of this version to read it")]
    OtherVersion,
}

impl DatapathError {
    pub(super) fn load(error: &EbpfError) -> Self {
        match errno(error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::Privileges,
            _ => Self::Load(chain(error)),
        }
    }

    pub(super) fn program(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log }
                if Errno::from_io_error(&io_error) != Some(Errno::PERM) =>
            {
                tracing::debug!("{verifier_log}");
                Self::Verifier { cause: io_error.to_string() }
            }
            ProgramError::LoadError { .. } => Self::Privileges,
            error => Self::Program(chain(&error)),
        }
    }

    pub(super) fn pins(path: &Path, error: &io::Error) -> Self {
        Self::Pins { path: path.display().to_string(), cause: error.to_string() }
    }

    pub(super) fn attach(error: &(dyn std::error::Error + 'static)) -> Self {
        match errno(error) {
            Some(Errno::BUSY | Errno::EXIST) => Self::Busy,
            Some(Errno::PERM) => Self::Privileges,
            _ => Self::Attach(chain(error)),
        }
    }

    /// Of adding a filter, or the qdisc that it is for. The kernel reports a kind that it has neither built in nor as a module
    /// by ENOENT (`qdisc_create` in `net/sched/sch_api.c`, `tcf_proto_lookup_ops` in
    /// `net/sched/cls_api.c`).
    pub(super) fn filter(error: &(dyn std::error::Error + 'static)) -> Self {
        match errno(error) {
            Some(Errno::NOENT) => Self::TcModules,
            _ => Self::attach(error),
        }
    }

    pub(super) fn map(map: &'static str, capacity: u32, error: &MapError) -> Self {
        match errno(error) {
            Some(Errno::TOOBIG | Errno::NOSPC) => Self::MapFull { map, capacity },
            _ => Self::Map { map, cause: chain(error) },
        }
    }
}

/// Checks for problems that the kernel would report less clearly.
pub(super) fn check_host() -> Result<(), DatapathError> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    if version(&release).is_some_and(|version| version < OLDEST_KERNEL) {
        return Err(DatapathError::Kernel { release: release.into_owned() });
    }
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON;
    match rustix::thread::capabilities(None) {
        // CAP_SYS_ADMIN includes the two newer ones (capabilities(7)).
        Ok(sets) if !sets.effective.contains(needed) && !sets.effective.contains(CapabilitySet::SYS_ADMIN) => {
            Err(DatapathError::Privileges)
        }
        _ => Ok(()),
    }
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_without_filters_names_the_modules() {
        let error = |errno: Errno| DatapathError::filter(&io::Error::from(errno));
        let missing = error(Errno::NOENT).to_string();
        assert!(missing.contains("`modprobe -a sch_ingress cls_bpf`"), "{missing}");
        assert!(matches!(error(Errno::PERM), DatapathError::Privileges));
        assert!(matches!(error(Errno::NODEV), DatapathError::Attach(cause) if cause.contains("No such device")));
    }

    #[test]
    fn kernel_release_is_parsed() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.12-rc1"), Some((6, 12)));
        assert_eq!(version("unknown"), None);
    }
}
