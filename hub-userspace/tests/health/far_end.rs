//! A TUN device with the test at its far end: raw IP, and arbitrary answers.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    time::Duration,
};

use nix::libc;
use tokio::time::{sleep, timeout};

use crate::lab::{Lab, index};

pub struct FarEnd {
    pub ifindex: u32,
    file: File,
}

impl FarEnd {
    pub async fn new(lab: &Lab, name: &str) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .expect("the test needs /dev/net/tun: modprobe tun");
        // SAFETY: plain data, for which zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        let ifindex = index(name);
        lab.up(ifindex).await;
        Self { ifindex, file }
    }

    /// The next echo request; skips other packets, such as router solicitations.
    pub async fn request(&mut self) -> Vec<u8> {
        let arrives = async {
            loop {
                let mut packet = vec![0; 2048];
                match self.file.read(&mut packet) {
                    Ok(length) if matches!((packet[0] >> 4, packet[20], packet[40]), (4, 8, _) | (6, _, 128)) => {
                        packet.truncate(length);
                        return packet;
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
            }
        };
        timeout(Duration::from_secs(4), arrives).await.expect("no probe came")
    }

    pub fn send(&mut self, packet: &[u8]) {
        self.file.write_all(packet).unwrap();
    }
}

/// Offsets in an echo packet without options.
pub struct IdMaps {
    pub addresses: usize,
    pub address: usize,
    pub message: usize,
}

pub fn layout(packet: &[u8]) -> IdMaps {
    match packet[0] >> 4 {
        4 => IdMaps { addresses: 12, address: 4, message: 20 },
        _ => IdMaps { addresses: 8, address: 16, message: 40 },
    }
}

/// The correct reply to a request.
pub fn reply(request: &[u8]) -> Vec<u8> {
    let IdMaps { addresses, address, message } = layout(request);
    let mut packet = request.to_vec();
    let (sources, destinations) = packet[addresses..message].split_at_mut(address);
    sources.swap_with_slice(destinations);
    packet[message] = if message == 20 { 0 } else { 129 };
    resum(&mut packet);
    packet
}

/// Fills in correct checksums.
pub fn resum(packet: &mut [u8]) {
    let IdMaps { addresses, message, .. } = layout(packet);
    let length = (packet.len() - message) as u32;
    packet[message + 2..message + 4].fill(0);
    let pseudo_header = match message {
        20 => {
            packet[10..12].fill(0);
            let checksum = checksum(&packet[..message]);
            packet[10..12].copy_from_slice(&checksum);
            Vec::new()
        }
        _ => [&packet[addresses..message], &length.to_be_bytes(), &[0, 0, 0, 58]].concat(),
    };
    let checksum = checksum(&[&pseudo_header, &packet[message..]].concat());
    packet[message + 2..message + 4].copy_from_slice(&checksum);
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u64 =
        bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0))).sum();
    (!((sum % 0xffff) as u16)).to_be_bytes()
}
