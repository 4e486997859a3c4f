//! Programs that take every place for TC at an interface, so that nobody else's can be attached there.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::libc;

use super::Namespace;

// linux/bpf.h: enum bpf_cmd, enum bpf_prog_type, enum bpf_attach_type.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest for zeros.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Takes all places until it is told to leave, or the namespace goes.
#[derive(Debug)]
pub struct Crowd {
    /// By TCX: programs stay with their links, and links with these.
    links: Vec<OwnedFd>,
    device: String,
}

impl Namespace {
    /// # Errors
    /// When the namespace has no such device, or somebody is there already.
    pub fn crowd(&self, device: &str) -> anyhow::Result<Crowd> {
        let ifindex = self.ifindex(device)?;
        let links = match self.enter(|| take_places(ifindex))? {
            // Before Linux 6.6: a filter of another kind at the first priority is in the way of any at that.
            Err(Errno::EINVAL) => {
                self.tc(&format!("qdisc add dev {device} clsact"))?;
                self.tc(&format!("filter add dev {device} ingress prio 1 protocol ip u32 match u32 0 0"))?;
                Vec::new()
            }
            links => links.with_context(|| format!("taking the places at {device}"))?,
        };
        Ok(Crowd { links, device: device.to_owned() })
    }

    fn tc(&self, arguments: &str) -> anyhow::Result<()> {
        let output = self.command("tc").args(arguments.split(' ')).output().context("running tc")?;
        ensure!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Crowd {
    /// # Errors
    /// When the kernel does not let it.
    pub fn leave(self, place: &Namespace) -> anyhow::Result<()> {
        match self.links.is_empty() {
            true => place.tc(&format!("qdisc del dev {} clsact", self.device)),
            false => Ok(()),
        }
    }
}

/// As many as there are (`BPF_MPROG_MAX`, `linux/bpf_mprog.h`).
fn take_places(ifindex: u32) -> nix::Result<Vec<OwnedFd>> {
    let mut links = Vec::new();
    loop {
        match take_place(ifindex) {
            Ok(link) => links.push(link),
            Err(Errno::ERANGE) => return Ok(links),
            Err(error) => return Err(error),
        }
    }
}

/// Attaches one more program that leaves every packet to the next.
fn take_place(ifindex: u32) -> nix::Result<OwnedFd> {
    // r0 = TCX_NEXT; exit.
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let program = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let program = bpf(BPF_PROG_LOAD, &program)?;
    let link = LinkCreate {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
    };
    bpf(BPF_LINK_CREATE, &link)
}

/// A command whose answer is a file descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> nix::Result<OwnedFd> {
    // SAFETY: `attributes` is the beginning of the command's part of `union bpf_attr`, of the length that is told; it and
    // what its pointers lead to outlive the call, which writes to none of it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
