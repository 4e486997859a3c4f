//! Coverage of a run: a comparison that never forwards proves nothing.

use std::{collections::BTreeMap, fmt};

use hub_common::Reason;
use hub_tests::model::{Account, Count, Mark, Prediction, Verdict, World};
use hub_userspace::datapath::Hook;

use crate::{
    agreements::is_limited as limits,
    compare::{is_raw, predict},
    program::Arrival,
};

/// Occurrences of each event.
#[derive(Default)]
pub struct Coverage {
    packets: u64,
    times: BTreeMap<String, u64>,
}

/// Each event must occur at least once in this many packets.
const RAREST: u64 = 2_000;

/// Reasons that only XDP has: TC forwards these packets.
const OF_XDP: [&str; 2] = ["handed_over", "ip_options"];

/// The model's names of the rules about sources, translations and the MSS of SYNs, and of every way to allow a packet to the hub
/// itself.
const RULES: [&str; 32] = [
    "martian source",
    "source of the hub",
    "source outside of the VPC",
    "source outside of the selectors",
    "no way back",
    "way back to another site",
    "way back to the VPC",
    "no way back, and none asked for",
    "to the hub by a selector",
    "to the hub on its link",
    "to the hub, outside of the selectors",
    "to the hub, no way back",
    "to the hub from the VPC",
    "to the hub from behind the VPC",
    "to the hub from the VPC, routed to a site",
    "to the hub from the VPC, of a site's link",
    "on the link, by its kind",
    "on the link, a neighbour",
    "on the link, impossible",
    "on the link, a stranger",
    "on the link, admitted",
    "on the link, beyond the hub",
    "source translated",
    "source without a counterpart at the hub",
    "destination inside an error translated",
    "destination translated",
    "source inside an error translated",
    "SYN without MSS",
    "MSS without a limit",
    "MSS within the limit",
    "MSS lowered",
    "MSS lowered, at an odd offset",
];

/// Those that TC leaves to the program at egress.
const AT_EGRESS: [&str; 2] = ["destination translated", "source inside an error translated"];

/// Verdicts on frames to a group's link address.
const GROUP_FRAMES: [&str; 3] =
    ["to a group's MAC, multicast", "to a group's MAC, malformed", "to a group's MAC, spoofed_source"];

const MARKS: [&str; 5] =
    ["mark: cleared", "mark: no route", "mark: local", "mark: next hop a connection", "mark: next hop the VPC"];

impl Coverage {
    pub fn note(&mut self, world: &World, arrival: &Arrival) {
        self.packets += 1;
        let prediction = predict(world, Hook::Tc, arrival);
        match &prediction.verdict {
            Verdict::Pass(reason) | Verdict::Drop(reason) => self.count(reason),
            Verdict::Forward { interface: egress, frame: out } => {
                self.note_forward(world, arrival, &prediction, *egress, out);
            }
        }
        if !is_raw(world, arrival)
            && arrival.frame[0] & 1 == 1
            && let Verdict::Pass(reason) | Verdict::Drop(reason) = &prediction.verdict
        {
            self.count(&format!("to a group's MAC, {reason}"));
        }
        self.note_mark(prediction.mark.as_ref());
        let rules = world.rules(arrival.hook(Hook::Tc, is_raw(world, arrival)), arrival.interface, &arrival.frame);
        if matches!(prediction.verdict, Verdict::Pass(_)) && rules.iter().any(|rule| rule.starts_with("MSS lowered")) {
            self.count("passed with a lower MSS");
        }
        for rule in rules {
            self.count(rule);
        }
        if arrival.taken_for.is_some() {
            return;
        }
        let by_xdp = predict(world, Hook::Xdp, arrival).by_xdp(world);
        let at_xdp = world.rules(arrival.hook(Hook::Xdp, is_raw(world, arrival)), arrival.interface, &arrival.frame);
        for rule in at_xdp.into_iter().filter(|rule| AT_EGRESS.contains(rule)) {
            self.count(rule);
        }
        match by_xdp.verdict {
            Verdict::Pass(reason) if OF_XDP.contains(&reason) => self.count(reason),
            Verdict::Drop("malformed") if prediction.verdict == Verdict::Pass("not_ip") => {
                self.count("malformed for XDP, not IP for TC");
            }
            _ => {}
        }
    }

    fn note_forward(&mut self, world: &World, arrival: &Arrival, prediction: &Prediction, egress: u32, out: &[u8]) {
        let Arrival { interface, frame, .. } = arrival;
        let ethernet = |index| world.interfaces.iter().any(|link| link.index == index && link.ethernet);
        let (from, to) = (ethernet(*interface), ethernet(egress));
        let name = |ethernet| if ethernet { "Ethernet" } else { "raw IP" };
        let ip = if to { &out[14..] } else { out };
        self.count(&format!("forward IPv{} from {} to {}", ip[0] >> 4, name(from), name(to)));
        if from && matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]) {
            self.count("forward, tags taken off");
        }
        match (ip[0], ip[6]) {
            (0x46.., _) if ip[0] >> 4 == 4 => self.count("forward, IPv4 options"),
            (0x60.., 0) => self.count("forward, hop-by-hop options"),
            _ => {}
        }
        if prediction.counts.iter().any(|count| matches!(count, (Account::Vpc, Count::Sent(_)))) {
            self.count("forward to the VPC");
        }
        if prediction.counts.iter().any(|count| matches!(count, (Account::Vpc, Count::Received(_)))) {
            self.count("forward from the VPC");
        }
        for (_, count) in prediction.counts.iter().filter(|(account, _)| is_limited(world, account)) {
            let way = if matches!(count, Count::Received(_)) { "from" } else { "to" };
            self.count(&format!("forward {way} a site with limits"));
        }
        if out.len() + 4 < frame.len() {
            self.count("forward, much shorter");
        }
    }

    fn note_mark(&mut self, mark: Option<&Mark>) {
        let [cleared, no_route, local, connection, vpc] = MARKS;
        match mark {
            None => {}
            Some(Mark::Cleared) => self.count(cleared),
            Some(Mark::NoRoute) => self.count(no_route),
            Some(Mark::Local) => self.count(local),
            Some(Mark::NextHop(Account::Vpc)) => self.count(vpc),
            Some(Mark::NextHop(_)) => self.count(connection),
        }
    }

    fn count(&mut self, what: &str) {
        match self.times.get_mut(what) {
            Some(times) => *times += 1,
            None => drop(self.times.insert(what.to_owned(), 1)),
        }
    }

    /// # Errors
    /// The events that occurred too rarely.
    pub fn check(&self) -> anyhow::Result<()> {
        // Devices are not deleted in these worlds: see the verdicts test.
        let reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::RedirectFailed);
        let reasons = reasons.map(|reason| reason.name().to_owned());
        let ways = ["Ethernet to Ethernet", "Ethernet to raw IP", "raw IP to Ethernet", "raw IP to raw IP"];
        let forwards = ["IPv4", "IPv6"].into_iter().flat_map(|ip| ways.map(|way| format!("forward {ip} from {way}")));
        let others = [
            "forward, tags taken off",
            "forward to the VPC",
            "forward from the VPC",
            "forward, much shorter",
            "passed with a lower MSS",
            "forward from a site with limits",
            "forward to a site with limits",
            "forward, IPv4 options",
            "forward, hop-by-hop options",
            "malformed for XDP, not IP for TC",
            "protocol_mismatch",
            "too_many_tags",
        ];
        let others = others.into_iter().chain(RULES).chain(GROUP_FRAMES).chain(MARKS);
        let least = self.packets / RAREST;
        let times = |what: &str| self.times.get(what).copied().unwrap_or(0);
        let rare: Vec<String> = reasons
            .chain(forwards)
            .chain(others.map(str::to_owned))
            .filter(|what| times(what) < least.max(1))
            .collect();
        anyhow::ensure!(rare.is_empty(), "less than {least} times in {} packets: {rare:?}\n{self}", self.packets);
        Ok(())
    }
}

/// Whether some of the connection's negotiated selectors are limited to protocols or ports.
fn is_limited(world: &World, account: &Account) -> bool {
    let Account::Connection(name) = account else { return false };
    let agreement = world.connections.iter().find(|connection| connection.name == *name);
    let agreement = agreement.and_then(|connection| connection.agreement.as_ref());
    agreement.is_some_and(|known| !known.on_demand && !known.pairs.is_empty() && known.pairs.iter().any(limits))
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.times.iter().try_for_each(|(what, times)| writeln!(f, "{times:>9} {what}"))?;
        writeln!(f, "{:>9} packets", self.packets)
    }
}
