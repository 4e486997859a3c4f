//! `vpnhub trace`.

use std::{
    cmp::Reverse,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Output, printed, trace_table};
use crate::{
    api::Client,
    api_types::trace::{CaptureTrace, PacketRequest, Trace, TraceRequest, TraceVerdict, UntracedCount, VerdictCount},
    policy::ports::NAMES,
    trace::{
        hex,
        packet::{FLAGS, ICMP, ICMPV6},
        pcap::{self, Captured},
        prepare::LONGEST,
    },
};

/// Most packets of a capture: each is a request of its own.
const MOST: usize = 100_000;

#[derive(Debug, Args)]
pub struct TraceArguments {
    /// Connection that the packet comes from, or "vpc".
    #[arg(long = "in", value_name = "CONN")]
    ingress: String,
    /// Source address.
    #[arg(long, value_name = "A", required_unless_present = "pcap")]
    src: Option<IpAddr>,
    /// Destination address.
    #[arg(long, value_name = "B", required_unless_present = "pcap")]
    dst: Option<IpAddr>,
    /// tcp, udp, icmp, or another protocol's name or number.
    #[arg(long, value_name = "PROTO", default_value = "icmp")]
    proto: String,
    /// Source port. Default: 40000.
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// Destination port. Default: 80.
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// Bytes of the IP packet. Default: as few as its headers need.
    #[arg(long, value_name = "BYTES")]
    len: Option<u16>,
    /// TTL or hop limit. Default: 64.
    #[arg(long)]
    ttl: Option<u8>,
    /// TCP flags, such as syn,ack; "none" for none. Default: syn.
    #[arg(long, value_name = "FLAGS", value_parser = tcp_flags)]
    tcp_flags: Option<u8>,
    /// Trace each packet of this pcap or pcapng file instead, and count the verdicts.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["src", "dst", "proto", "sport", "dport", "len", "ttl", "tcp_flags"])]
    pcap: Option<PathBuf>,
}

fn tcp_flags(text: &str) -> Result<u8, String> {
    if text == "none" {
        return Ok(0);
    }
    text.split(',').try_fold(0, |flags, name| {
        let bit = FLAGS.iter().position(|flag| *flag == name);
        Ok(flags | 1 << bit.ok_or_else(|| format!("{name:?} is none of {}", FLAGS.join(", ")))?)
    })
}

/// A protocol's number. ICMP is that of the packet's IP version.
fn protocol(name: &str, is_ipv4: bool) -> Result<u8> {
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match known.or_else(|| name.parse().ok()) {
        Some(ICMP) if name == "icmp" && !is_ipv4 => Ok(ICMPV6),
        Some(number) => Ok(number),
        None => {
            let names = NAMES.map(|(name, _)| name).join(", ");
            bail!("there is no protocol {name:?}; help: give a number from 0 to 255, or one of {names}")
        }
    }
}

pub async fn run(client: &Client, arguments: TraceArguments, output: Output) -> Result<String> {
    let TraceArguments { ingress, src, dst, proto, sport, dport, len, ttl, tcp_flags, pcap } = arguments;
    if let Some(file) = pcap {
        return capture(client, &ingress, &file, output).await;
    }
    let (Some(source), Some(destination)) = (src, dst) else { bail!("give --src and --dst, or --pcap") };
    let packet = PacketRequest {
        source,
        destination,
        protocol: Some(protocol(&proto, source.is_ipv4())?),
        source_port: sport,
        destination_port: dport,
        length: len,
        ttl,
        tcp_flags,
    };
    let trace = client.trace(&TraceRequest { ingress, packet: Some(packet), frame: None, ethernet: None }).await?;
    printed(&trace, trace_table::trace, output)
}

/// Traces each packet of a capture, and counts the verdicts.
async fn capture(client: &Client, ingress: &str, file: &Path, output: Output) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let packets = pcap::read(&bytes).with_context(|| file.display().to_string())?;
    if packets.len() > MOST {
        bail!("{} has {} packets, and {MOST} can be traced at once: split it", file.display(), packets.len());
    }
    let mut result = CaptureTrace { packets: packets.len(), ..CaptureTrace::default() };
    for Captured { number, is_ethernet, mut bytes, length } in packets {
        if bytes.len() < length {
            result.truncated += 1;
            bytes.resize(length.min(LONGEST), 0);
        }
        let (frame, ethernet) = (Some(hex::encode(&bytes)), Some(is_ethernet));
        let request = TraceRequest { ingress: ingress.to_owned(), packet: None, frame, ethernet };
        if bytes.len() > LONGEST {
            let error = format!("longer than the {LONGEST} bytes that a test run takes");
            untraced(&mut result, error, number);
            continue;
        }
        match client.trace(&request).await {
            Ok(trace) => count(&mut result, trace, number),
            // It concerns all packets.
            Err(error) if number == 1 => return Err(error),
            Err(error) => untraced(&mut result, format!("{error:#}"), number),
        }
    }
    result.verdicts.sort_by_key(|verdict| Reverse(verdict.packets));
    printed(&result, trace_table::capture, output)
}

fn count(result: &mut CaptureTrace, trace: Trace, number: usize) {
    let TraceVerdict { action, reason, egress, .. } = &trace.verdict;
    let is_same = |known: &&mut VerdictCount| (known.action, &known.reason, &known.egress) == (*action, reason, egress);
    match result.verdicts.iter_mut().find(is_same) {
        Some(known) => known.packets += 1,
        None => result.verdicts.push(VerdictCount {
            action: *action,
            reason: reason.clone(),
            egress: egress.clone(),
            packets: 1,
            first: number,
            example: trace,
        }),
    }
}

fn untraced(result: &mut CaptureTrace, error: String, number: usize) {
    match result.untraced.iter_mut().find(|known| known.error == error) {
        Some(known) => known.packets += 1,
        None => result.untraced.push(UntracedCount { error, packets: 1, first: number }),
    }
}
