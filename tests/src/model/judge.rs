//! The way of a packet through the hub, and what is written in the books.

use super::{World, flow, parse, rewrite, route::Target};

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves by the interface of this index, as this frame.
    Forward { interface: u32, frame: Vec<u8> },
    /// Goes to the kernel, bit by bit as it came, for this reason.
    Pass(&'static str),
    /// Goes nowhere, for this reason.
    Drop(&'static str),
}

/// Whose counters a packet changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// Nobody's that can be told.
    Unattributed,
    Vpc,
    /// A connection, by name.
    Connection(String),
}

/// A counter, changed by one packet. Bytes are those of the IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Count {
    Received(u64),
    Sent(u64),
    Reason(&'static str),
}

/// A verdict with all it changes in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub counts: Vec<(Account, Count)>,
}

impl World {
    /// The fate of a frame that came in on the interface of this index.
    pub fn judge(&self, interface: u32, frame: &[u8]) -> Judgement {
        let mut account = Account::Unattributed;
        let mut counts = Vec::new();
        let verdict = self.stages(interface, frame, &mut account, &mut counts).unwrap_or_else(|refusal| refusal);
        if let Verdict::Pass(reason) | Verdict::Drop(reason) = &verdict {
            counts.push((account, Count::Reason(reason)));
        }
        Judgement { verdict, counts }
    }

    /// The bucket, of 256, that the flow of a frame is in.
    ///
    /// # Panics
    /// When the frame is none that could be forwarded.
    pub fn bucket(&self, interface: u32, frame: &[u8]) -> usize {
        let attachment = self.attachment(interface).expect("an attachment");
        let packet = parse::packet(self, attachment.interface, frame).expect("a packet to forward");
        flow::hash(&packet) as usize % flow::BUCKETS
    }

    fn stages(
        &self,
        interface: u32,
        frame: &[u8],
        account: &mut Account,
        counts: &mut Vec<(Account, Count)>,
    ) -> Result<Verdict, Verdict> {
        let attachment = self.attachment(interface).ok_or(Verdict::Pass("not_attached"))?;
        *account = attachment.account();

        let packet = parse::packet(self, attachment.interface, frame)?;
        if self.is_hub(packet.destination) {
            return Err(Verdict::Pass("to_hub"));
        }

        attachment.admit(&packet, account)?;
        let length = packet.length as u64;
        counts.push((account.clone(), Count::Received(length)));

        let target = self.target(packet.destination).ok_or(Verdict::Pass("no_route"))?;
        let to_vpc = matches!(target, Target::Vpc { .. });
        if !self.spoke_to_spoke && *account != Account::Vpc && !to_vpc {
            return Err(Verdict::Drop("isolated"));
        }

        let way = self.way(&target, &packet);
        if !self.admits_egress(&way.account, &packet) {
            return Err(Verdict::Drop("selector_mismatch"));
        }
        let egress = way.interface.filter(|interface| interface.up).ok_or(Verdict::Pass("next_hop_down"))?;

        let bytes = rewrite::rewrite(frame, &packet, egress, way.neighbour)?;
        counts.push((way.account, Count::Sent(length)));
        Ok(Verdict::Forward { interface: egress.index, frame: bytes })
    }
}
