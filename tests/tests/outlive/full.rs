//! Other programs have taken all places at an interface's TCX hook: a filter of clsact forwards instead.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use hub_tests::lab::{AgentCommand, HANGZHOU, HUB, HubConfig, Options, SHANGHAI, World, agent_binary, reach};
use nix::net::if_::if_nametoindex;

use crate::bulk::has_tcx;
use crate::{SITES, start_again};

/// Places at one hook; one ends the list (`BPF_MPROG_MAX`, `linux/bpf_mprog.h`).
const MOST: usize = 64 - 1;
// enum bpf_cmd, enum bpf_prog_type and enum bpf_attach_type (linux/bpf.h).
const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u32; 4],
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: RawFd,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: i64, attributes: &T) -> OwnedFd {
    // SAFETY: the kernel reads this many bytes, and what a `ProgLoad` points to, which is static.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel has just opened it for this call.
    unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) }
}

/// Puts a program that leaves each packet to the next one at the interface's TCX hook; it is there until the link is
/// dropped.
fn occupy(ifindex: u32) -> OwnedFd {
    // r0 = TCX_NEXT (-1); exit.
    static CODE: [u64; 2] = [0xffff_ffff_0000_00b7_u64, 0x95];
    let (code, license) = (CODE.as_ptr() as u64, c"GPL".as_ptr() as u64);
    let program = bpf(PROG_LOAD, &ProgLoad { kind: SCHED_CLS, instructions: 2, code, license, log: [0; 4] });
    bpf(LINK_CREATE, &LinkCreate { program: program.as_raw_fd(), ifindex, attach_type: TCX_INGRESS, flags: 0 })
}

#[test]
fn filter_forwards_where_others_have_taken_all_places_of_tcx() {
    if !has_tcx() {
        println!("this kernel has no TCX: nothing to test");
        return;
    }
    let world = World::three_offices(&Options::default()).unwrap();
    let hub = &world[HUB];
    let device = SHANGHAI.hub_device(0);
    let (ifindex, links) = hub
        .enter(|| {
            let ifindex = if_nametoindex(&*device).unwrap();
            (ifindex, (0..MOST).map(|_| occupy(ifindex)).collect::<Vec<_>>())
        })
        .unwrap();
    let ours = |kind: &str| fs::symlink_metadata(hub.pins().join(format!("{kind}-{ifindex}"))).is_ok();
    let both_ways = || {
        reach(&world["shanghai"], HANGZHOU.host4().into()).unwrap();
        reach(&world["hangzhou"], SHANGHAI.host4().into()).unwrap();
    };

    let command = AgentCommand::new(agent_binary()).argument("--attach").argument("tc");
    let agent = command.start_with(hub, &HubConfig::offices(&SITES).to_string()).unwrap();
    both_ways();
    assert_eq!((ours("clsact"), ours("tcx")), (true, false));
    // A new agent replaces the filter, and there is still no place.
    let agent = start_again(&world, agent.kill().unwrap());
    both_ways();
    assert_eq!((ours("clsact"), ours("tcx")), (true, false));
    drop(links);
    let agent = start_again(&world, agent.kill().unwrap());
    hub_tests::lab::retry("no link", || Ok((!ours("clsact") && ours("tcx")).then_some(()))).unwrap();
    both_ways();
    agent.stop().unwrap();
}
