//! What the packets of a run have met: a comparison that never forwards shows nothing.

use std::{collections::BTreeMap, fmt};

use hub_common::Reason;
use hub_tests::model::{Account, Count, Judgement, Verdict, World};

use crate::agreements::is_limited as limits;

/// How often each thing happened.
#[derive(Default)]
pub struct Coverage {
    packets: u64,
    times: BTreeMap<String, u64>,
}

/// Each thing happens at least once in so many packets.
const RAREST: u64 = 2_000;

impl Coverage {
    pub fn note(&mut self, world: &World, interface: u32, frame: &[u8], judgement: &Judgement) {
        self.packets += 1;
        match &judgement.verdict {
            Verdict::Pass(reason) | Verdict::Drop(reason) => self.count(reason),
            Verdict::Forward { interface: egress, frame: out } => {
                let ethernet = |index| world.interfaces.iter().any(|link| link.index == index && link.ethernet);
                let (from, to) = (ethernet(interface), ethernet(*egress));
                let name = |ethernet| if ethernet { "Ethernet" } else { "raw IP" };
                let ip = if to { &out[14..] } else { out };
                self.count(&format!("forward IPv{} from {} to {}", ip[0] >> 4, name(from), name(to)));
                if from && matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]) {
                    self.count("forward, tags taken off");
                }
                if judgement.counts.iter().any(|count| matches!(count, (Account::Vpc, Count::Sent(_)))) {
                    self.count("forward to the VPC");
                }
                if judgement.counts.iter().any(|count| matches!(count, (Account::Vpc, Count::Received(_)))) {
                    self.count("forward from the VPC");
                }
                for (_, count) in judgement.counts.iter().filter(|(account, _)| is_limited(world, account)) {
                    let way = if matches!(count, Count::Received(_)) { "from" } else { "to" };
                    self.count(&format!("forward {way} a site with limits"));
                }
                if out.len() + 4 < frame.len() {
                    self.count("forward, much shorter");
                }
            }
        }
    }

    /// `by_xdp` is XDP's part of a judgement.
    pub fn note_handed_over(&mut self, by_xdp: &Judgement) {
        if by_xdp.verdict == Verdict::Pass("handed_over") {
            self.count("handed_over");
        }
    }

    fn count(&mut self, what: &str) {
        match self.times.get_mut(what) {
            Some(times) => *times += 1,
            None => drop(self.times.insert(what.to_owned(), 1)),
        }
    }

    /// # Errors
    /// What happened too seldom.
    pub fn check(&self) -> anyhow::Result<()> {
        // Devices do not go in these worlds: see the verdicts test.
        let reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::RedirectFailed);
        let reasons = reasons.map(|reason| reason.name().to_owned());
        let ways = ["Ethernet to Ethernet", "Ethernet to raw IP", "raw IP to Ethernet", "raw IP to raw IP"];
        let forwards = ["IPv4", "IPv6"].into_iter().flat_map(|ip| ways.map(|way| format!("forward {ip} from {way}")));
        let others = [
            "forward, tags taken off",
            "forward to the VPC",
            "forward from the VPC",
            "forward, much shorter",
            "forward from a site with limits",
            "forward to a site with limits",
        ];
        let least = self.packets / RAREST;
        let rare: Vec<String> = reasons
            .chain(forwards)
            .chain(others.map(str::to_owned))
            .filter(|what| self.times.get(what).copied().unwrap_or(0) < least.max(1))
            .collect();
        anyhow::ensure!(rare.is_empty(), "less than {least} times in {} packets: {rare:?}\n{self}", self.packets);
        Ok(())
    }
}

/// Some of what the connection's SAs are for is limited to protocols or ports.
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
