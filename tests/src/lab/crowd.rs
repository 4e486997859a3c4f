//! Foreign programs on an interface: some that fill every slot of TCX and the first priority of clsact, and one XDP
//! program, which fills the only XDP slot.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::libc;

use super::Namespace;

// linux/bpf.h: enum bpf_cmd, enum bpf_prog_type, enum bpf_attach_type.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
// linux/if_link.h: native XDP.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_TCX_INGRESS: u32 = 46;
/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel assumes zeros for the rest.
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

/// Fills all slots until `leave` or the end of the namespace.
#[derive(Debug)]
pub struct Crowd {
    /// With TCX: programs live as long as their links, and links as long as these descriptors.
    links: Vec<OwnedFd>,
    device: String,
}

impl Namespace {
    /// # Errors
    /// When the namespace has no such device, or a foreign program is attached already.
    pub fn crowd(&self, device: &str) -> anyhow::Result<Crowd> {
        let ifindex = self.ifindex(device)?;
        let links = match self.enter(|| take_places(ifindex))? {
            // Before Linux 6.6 there is no TCX.
            Err(Errno::EINVAL) => Vec::new(),
            links => links.with_context(|| format!("taking the places at {device}"))?,
        };
        // A filter of another kind at the first priority blocks all others at that priority.
        self.tc(&format!("qdisc add dev {device} clsact"))?;
        self.tc(&format!("filter add dev {device} ingress prio 1 protocol ip u32 match u32 0 0"))?;
        Ok(Crowd { links, device: device.to_owned() })
    }

    /// Attaches a foreign XDP program to a device, which passes every frame. It lives as long as the returned value or
    /// the device.
    ///
    /// # Errors
    /// When the namespace has no such device, or an XDP program is attached already.
    pub fn foreign_xdp(&self, device: &str) -> anyhow::Result<OwnedFd> {
        let ifindex = self.ifindex(device)?;
        // r0 = XDP_PASS; exit.
        let instructions = [0x0000_0002_0000_00b7, 0x95];
        let link = self.enter(|| {
            let program = load(BPF_PROG_TYPE_XDP, &instructions)?;
            attach(&program, ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE)
        })?;
        link.with_context(|| format!("attaching an XDP program to {device}"))
    }

    fn tc(&self, arguments: &str) -> anyhow::Result<()> {
        let output = self.command("tc").args(arguments.split(' ')).output().context("running tc")?;
        ensure!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Crowd {
    /// # Errors
    /// When the kernel refuses.
    pub fn leave(self, place: &Namespace) -> anyhow::Result<()> {
        drop(self.links);
        place.tc(&format!("qdisc del dev {} clsact", self.device))
    }
}

/// Fills all `BPF_MPROG_MAX` slots (`linux/bpf_mprog.h`).
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
    let program = load(BPF_PROG_TYPE_SCHED_CLS, &[0xffff_ffff_0000_00b7, 0x95])?;
    attach(&program, ifindex, BPF_TCX_INGRESS, 0)
}

fn load(prog_type: u32, instructions: &[u64; 2]) -> nix::Result<OwnedFd> {
    let (insns, license) = (instructions.as_ptr() as u64, c"GPL".as_ptr() as u64);
    bpf(BPF_PROG_LOAD, &ProgLoad { prog_type, insn_cnt: 2, insns, license })
}

fn attach(program: &OwnedFd, target_ifindex: u32, attach_type: u32, flags: u32) -> nix::Result<OwnedFd> {
    let prog_fd = u32::try_from(program.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    bpf(BPF_LINK_CREATE, &LinkCreate { prog_fd, target_ifindex, attach_type, flags })
}

/// A command that returns a file descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> nix::Result<OwnedFd> {
    // SAFETY: `attributes` is the beginning of the command's part of `union bpf_attr`, with its length. It and its
    // pointers' targets outlive the call, which writes to none of them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it, and it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
