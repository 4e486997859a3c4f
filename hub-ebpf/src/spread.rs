//! Distributes received ESP over the CPUs by its SPI: the program of underlay interfaces with `spread = "xdp"`. It is
//! independent of the forwarder's stages.
//!
//! Only the SPI decides, which is the same in all packets of an SA: they stay in order. All other packets pass
//! unchanged, and so do fragments, whose later ones have no SPI.

use aya_ebpf::{
    bindings::xdp_action,
    macros::map,
    maps::{Array, CpuMap},
};
use hub_common::spread::{BUCKETS, bucket};

use crate::{
    family::{Address, V4, V6},
    frame::Frame,
    headers::{Ethernet, Ipv4, Ipv6, Tag},
    parse::{FRAGMENT, MAX_TAGS, UDP, is_tag},
};

/// The CPUs, by number. The agent sets the number of entries, which must not exceed the kernel's number of CPUs.
#[map]
static SPREAD_CPUS: CpuMap = CpuMap::with_max_entries(1, 0);

/// The CPU of each bucket plus 1; 0: none.
#[map]
static SPREAD_BUCKETS: Array<u32> = Array::with_max_entries(BUCKETS, 0);

/// Encapsulating Security Payload (RFC 4303).
const ESP: u8 = 50;
/// UDP port of IKE and ESP with NAT traversal (RFC 3948).
const NAT_T: u16 = 4500;
/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: u16 = 8;
/// SPI and sequence number. The kernel takes no shorter payload for ESP in UDP (`__xfrm4_udp_encap_rcv`,
/// `net/ipv4/xfrm4_input.c`).
const ESP_HEADER: u16 = 8;

/// Returns the program's code.
///
/// Without an entry for the CPU the helper returns its flags, `XDP_PASS`. With one the packet waits in the CPU's queue.
/// If that is full the kernel drops the packet (`bq_flush_to_queue` and `cpu_map_generic_redirect`,
/// kernel/bpf/cpumap.c), as RPS does. The program cannot prevent it.
#[inline(always)]
pub fn distribute<F: Frame>(frame: &F) -> u32 {
    let Some(cpu) = spi(frame).and_then(|spi| SPREAD_BUCKETS.get(bucket(spi))).and_then(|cpu| cpu.checked_sub(1))
    else {
        return xdp_action::XDP_PASS;
    };
    let (Ok(action) | Err(action)) = SPREAD_CPUS.redirect(cpu, u64::from(xdp_action::XDP_PASS));
    action
}

/// The SPI of a whole packet of ESP, or of ESP in UDP, behind up to two tags.
#[inline(always)]
fn spi<F: Frame>(frame: &F) -> Option<u32> {
    let mut ethertype = u16::from_be_bytes(frame.at::<Ethernet>(0)?.ethertype);
    let mut offset = size_of::<Ethernet>();
    let mut tags = 0;
    while tags < MAX_TAGS && is_tag(ethertype) {
        ethertype = u16::from_be_bytes(frame.at::<Tag>(offset)?.ethertype);
        offset += size_of::<Tag>();
        tags += 1;
    }
    let (protocol, header_length) = match ethertype {
        <V4 as Address>::ETHERTYPE => {
            let header = frame.at::<Ipv4>(offset)?;
            let header_length = usize::from(header.version_and_length & 0x0f) * 4;
            if header.version_and_length >> 4 != 4
                || header_length < size_of::<Ipv4>()
                || u16::from_be_bytes(header.fragment) & FRAGMENT != 0
            {
                return None;
            }
            (header.protocol, header_length)
        }
        <V6 as Address>::ETHERTYPE => {
            let header = frame.at::<Ipv6>(offset)?;
            (header.version >> 4 == 6).then_some((header.next_header, size_of::<Ipv6>()))?
        }
        _ => return None,
    };
    let mut offset = offset + header_length;
    match protocol {
        ESP => {}
        UDP => {
            let [source, destination, length, _checksum] = frame.at::<[[u8; 2]; 4]>(offset)?.map(u16::from_be_bytes);
            if (source != NAT_T && destination != NAT_T) || length <= UDP_HEADER + ESP_HEADER {
                return None;
            }
            offset += usize::from(UDP_HEADER);
        }
        _ => return None,
    }
    // 0 is no SPI. In UDP it marks IKE (RFC 3948 section 2.2).
    Some(u32::from_be_bytes(*frame.at::<[u8; 4]>(offset)?)).filter(|spi| *spi != 0)
}
