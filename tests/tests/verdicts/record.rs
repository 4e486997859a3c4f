//! What the program records of a packet for `vpnhub monitor --packets` and `vpnhub capture`: each row's verdict, reason,
//! connection and bytes.

use hub_common::{
    Reason,
    maps::{CaptureRecord, FORWARDED},
};
use hub_tests::{
    model::{Account, Count, Prediction, Verdict},
    packet::hex,
};
use hub_userspace::datapath::{Hook, Outcome, PacketRecord};

use crate::program::{Arrival, Program};

/// Differences between the records of a packet and this hook's part of its verdict.
pub fn differences(
    program: &Program,
    part: &Prediction,
    arrival: &Arrival,
    outcome: &Outcome,
    records: &[PacketRecord],
) -> Vec<String> {
    // What XDP passes runs through the TC program, which records it.
    let is_by_xdp = program.entry.0 == Hook::Xdp;
    if is_by_xdp && matches!(part.verdict, Verdict::Pass(_)) {
        return records.iter().map(|record| format!("XDP records what it passes: {:?}", record.head)).collect();
    }
    let [PacketRecord { head, bytes }] = records else { return vec![format!("{} records, not 1", records.len())] };
    let mut differences = Vec::new();
    let mut check = |what: &str, is: String, should: String| {
        if is != should {
            differences.push(format!("recorded {what} {is}, not {should}"));
        }
    };
    let reason = |number: u32| match number {
        FORWARDED => "forward",
        number => Reason::ALL[number as usize].name(),
    };
    let (outcome_name, frame) = match &part.verdict {
        Verdict::Forward { .. } => ("forward", &outcome.frame),
        Verdict::Pass(reason) => (*reason, &outcome.frame),
        // XDP changes nothing that it drops; TC may have translated it.
        Verdict::Drop(reason) => (*reason, if is_by_xdp { &arrival.frame } else { &outcome.frame }),
    };
    check("outcome", reason(head.outcome).to_owned(), outcome_name.to_owned());
    let account = |of: fn(&Count) -> bool| part.counts.iter().find(|(_, count)| of(count)).map(|(account, _)| account);
    let is_forwarded = head.outcome == FORWARDED;
    let from = match is_forwarded {
        true => account(|count| matches!(count, Count::Received(_))),
        false => account(|count| matches!(count, Count::Reason(_))),
    };
    check("connection", format!("{:?}", program.account(head.connection)), format!("{from:?}"));
    let to = account(|count| matches!(count, Count::Sent(_))).unwrap_or(&Account::Unattributed);
    check("next hop", format!("{:?}", program.account(head.egress)), format!("{:?}", Some(to)));
    let interface = match &part.verdict {
        Verdict::Forward { interface, .. } => *interface,
        _ => arrival.interface,
    };
    check("interface", head.ifindex.to_string(), interface.to_string());
    // At TC, the kernel removes the link header of a frame that goes to an interface without one only later.
    let had_header = !program.raw.contains(&arrival.interface);
    let is_left = is_forwarded && head.link == CaptureRecord::RAW && !is_by_xdp && had_header;
    let leftover = if is_left { 14 } else { 0 };
    check("bytes", hex(bytes), hex(&frame[leftover..]));
    check("length", head.length.to_string(), bytes.len().to_string());
    differences
}
