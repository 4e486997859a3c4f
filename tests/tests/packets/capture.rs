//! Captures: files, truncation, forwarded packets. Files are read by another implementation than the agent's, and by
//! tshark where it is installed.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use hub_tests::lab::{HANGZHOU, HubConfig, Options, Rig, SHANGHAI, Scratch, VPC, World, agent_binary, retry};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Listener, SITES, Wire, address, spawn, spoofed, udp};

/// A packet of a capture.
#[derive(Debug)]
pub struct Captured {
    pub interface: String,
    /// `LINKTYPE_ETHERNET`; otherwise raw IP.
    pub ethernet: bool,
    pub inbound: bool,
    pub comment: String,
    pub bytes: Vec<u8>,
    pub length: usize,
}

/// The complete packets of a file in the format pcapng (draft-ietf-opsawg-pcapng), in this machine's byte order.
pub fn read(file: &Path) -> Vec<Captured> {
    let contents = fs::read(file).unwrap_or_default();
    let (mut rest, mut interfaces, mut packets) = (&contents[..], Vec::new(), Vec::new());
    let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    while rest.len() >= 12 && rest.len() >= word(rest, 4) {
        let (block, more) = rest.split_at(word(rest, 4));
        let body = &block[8..block.len() - 4];
        match word(block, 0) {
            1 => {
                let link = u16::from_ne_bytes([body[0], body[1]]);
                let name = options(&body[8..]).into_iter().find(|(code, _)| *code == 2).unwrap().1;
                interfaces.push((String::from_utf8(name).unwrap(), link == 1));
            }
            6 => {
                let (captured, length) = (word(body, 12), word(body, 16));
                let options = options(&body[20 + captured.next_multiple_of(4)..]);
                let option = |code: u16| options.iter().find(|(other, _)| *other == code).unwrap().1.clone();
                let (interface, ethernet) = interfaces[word(body, 0)].clone();
                packets.push(Captured {
                    interface,
                    ethernet,
                    inbound: option(2)[0] & 3 == 1,
                    comment: String::from_utf8(option(1)).unwrap(),
                    bytes: body[20..20 + captured].to_vec(),
                    length,
                });
            }
            _ => {}
        }
        rest = more;
    }
    packets
}

/// Options of a block, by code.
fn options(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while rest.len() >= 4 {
        let number = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let (code, length) = (number(0), usize::from(number(2)));
        if code == 0 {
            break;
        }
        options.push((code, rest[4..4 + length].to_vec()));
        rest = &rest[4 + length.next_multiple_of(4)..];
    }
    options
}

/// Where tshark is installed: a display filter finds the packets with a reason.
pub fn by_tshark(file: &Path, reason: &str, expected: usize) {
    let filter = format!("frame.comment contains \"{reason}\"");
    let Ok(output) = Command::new("tshark").arg("-r").arg(file).args(["-Y", &filter]).output() else {
        eprintln!("tshark is not installed: not read by it");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), expected, "{text}");
}

#[test]
fn capture_ends_at_count_and_truncates_at_snaplen() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("three.pcapng");
    let arguments = ["capture", "-w", file.to_str().unwrap(), "--count", "3", "--snaplen", "60"];
    let mut capture = spawn(&rig.agent, &[&arguments[..], &["--reason", "spoofed_source"]].concat());
    let wire = Wire::of_site(&rig.world, &SHANGHAI);
    let frames: Vec<_> = (0..4).map(|port| wire.send(&spoofed((port, 9)).payload(1000))).collect();
    assert!(capture.wait().unwrap().success());
    let packets = read(&file);
    assert_eq!(packets.len(), 3);
    for (packet, frame) in packets.iter().zip(&frames) {
        assert_eq!(packet.bytes, frame[..60]);
        assert_eq!((packet.length, packet.ethernet), (frame.len(), true));
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    rig.stop().unwrap();
}

#[test]
fn longest_frame_is_truncated_at_what_can_be_recorded() {
    let world = World::three_offices(&Options::default().vpc_mtu(9000)).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &["--attach", "tc"]).unwrap();
    rig.warm_up(&SITES).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("long.pcapng");
    let arguments = ["capture", "-w", file.to_str().unwrap(), "--count", "1", "--snaplen", "4096"];
    let mut capture = spawn(&rig.agent, &[&arguments[..], &["--src", "10.10.20.1"]].concat());
    let frame = Wire::of_vpc(&rig.world).send(&udp(HANGZHOU.host4(), SHANGHAI.host4(), (1, 2)).payload(8900));
    assert!(capture.wait().unwrap().success());
    let packets = read(&file);
    assert_eq!((&packets[0].bytes[..], packets[0].length), (&frame[..4096], frame.len()));
    rig.stop().unwrap();
}

#[test]
fn forwarded_packets_are_captured_as_sent_at_xdp() {
    forwarded(&[]);
}

#[test]
fn forwarded_packets_are_captured_as_sent_at_tc() {
    forwarded(&["--attach", "tc"]);
}

fn forwarded(arguments: &[&str]) {
    let world = World::three_offices(&Options::default()).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("forwarded.pcapng");
    let monitor = Listener::start(&rig.agent, &["--forwarded", "1/1", "--dport", "4444"]);
    let write = ["capture", "-w", file.to_str().unwrap(), "--forwarded", "1/1", "--dport", "4444"];
    let mut capture = spawn(&rig.agent, &write);
    let (from, to) = (Wire::of_site(&rig.world, &SHANGHAI), Wire::of_site(&rig.world, &HANGZHOU));
    for (port, packet) in [
        (1, udp(SHANGHAI.host4(), HANGZHOU.host4(), (1, 4444))),
        (2, udp(SHANGHAI.host6(), HANGZHOU.host6(), (2, 4444))),
    ] {
        from.send(&packet);
        let arrived =
            to.socket.expect(crate::WAIT, |frame| frame.windows(4).any(|ports| ports == [0, port, 0x11, 0x5c]));
        let arrived = arrived.unwrap().bytes;
        let shown = monitor.packet_from(port.into());
        assert_eq!((&shown["verdict"], &shown["connection"]), (&"forward".into(), &"shanghai".into()), "{shown}");
        assert_eq!((&shown["next_hop"], &shown["interface"]), (&"hangzhou".into(), &"tun-hz".into()), "{shown}");
        let captured = retry("the packet is not in the file", || {
            Ok(read(&file).into_iter().find(|packet| packet.bytes == arrived))
        });
        let captured = captured.unwrap();
        assert_eq!(captured.comment, "forward, connection shanghai, next hop hangzhou");
        assert!(!captured.inbound && captured.interface == "tun-hz");
    }
    capture.kill().unwrap();
    capture.wait().unwrap();
    rig.stop().unwrap();
}

#[test]
fn capture_to_standard_output_is_a_file() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let capture = spawn(&rig.agent, &["capture", "-w", "-", "--count", "1", "--src", crate::FOREIGN]);
    let frame = Wire::of_site(&rig.world, &SHANGHAI).send(&udp(address(crate::FOREIGN), VPC.host4, (1, 2)));
    let output = capture.wait_with_output().unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("piped.pcapng");
    fs::write(&file, &output.stdout).unwrap();
    assert_eq!(read(&file)[0].bytes, frame);
    rig.stop().unwrap();
}

#[test]
fn capture_into_a_pipe_that_nobody_reads_ends_after_an_interrupt() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let mut command = Command::new(agent_binary());
    command.arg("--socket").arg(rig.agent.socket()).args(["capture", "-w", "-", "--src", crate::FOREIGN]);
    let mut capture = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pipe = capture.stdout.take().unwrap();
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut errors = BufReader::new(capture.stderr.take().unwrap());
    errors.read_line(&mut String::new()).unwrap();
    let wire = Wire::of_site(&rig.world, &SHANGHAI);
    retry("the pipe does not fill", || {
        wire.send(&spoofed((1, 2)));
        Ok(is_stuck_in_write(capture.id()).then_some(()))
    })
    .unwrap();
    kill(Pid::from_raw(capture.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(capture.wait().unwrap().code(), Some(1));
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("vpnhub: the capture is not read: it ends incomplete\n"), "{rest}");
    drop(pipe);
    rig.stop().unwrap();
}

/// Whether a thread of this process sleeps in `write` to its standard output (`/proc/PID/task/TID/syscall`).
fn is_stuck_in_write(process: u32) -> bool {
    let write = format!("{} 0x1 ", libc::SYS_write);
    fs::read_dir(format!("/proc/{process}/task")).unwrap().any(|task| {
        let call = fs::read_to_string(task.unwrap().path().join("syscall"));
        call.is_ok_and(|call| call.starts_with(&write))
    })
}

#[test]
fn existing_file_becomes_private_and_symbolic_link_is_refused() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    rig.warm_up(&SITES).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("public.pcapng");
    fs::write(&file, "x".repeat(100_000)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let capture =
        spawn(&rig.agent, &["capture", "-w", file.to_str().unwrap(), "--count", "1", "--src", crate::FOREIGN]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let frame = Wire::of_site(&rig.world, &SHANGHAI).send(&udp(address(crate::FOREIGN), VPC.host4, (1, 2)));
    assert!(capture.wait_with_output().unwrap().status.success());
    assert_eq!(read(&file)[0].bytes, frame);

    let link = scratch.file("link.pcapng");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let output = rig.agent.cli(&["capture", "-w", link.to_str().unwrap()]).unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("choose another place with -w"), "{error}");
    rig.stop().unwrap();
}
