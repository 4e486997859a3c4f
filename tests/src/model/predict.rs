//! The path of a packet through the hub, and the counters it changes.

use super::{
    Hook, World, flow, parse, rewrite,
    translate::{View, counterpart, translate},
};

/// The verdict on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves by the interface with this index, as this frame.
    Forward { interface: u32, frame: Vec<u8> },
    /// Goes to the kernel, for this reason.
    Pass(&'static str),
    /// Is dropped, for this reason.
    Drop(&'static str),
}

/// The owner of the counters that a packet changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// No identifiable owner.
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

/// The mark that TC writes on a packet it passes: the only way in which the kernel learns of the decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// No decision: all bits of the mask are 0.
    Cleared,
    /// The source is allowed and there is no route: the kernel may answer, and must not forward.
    NoRoute,
    /// Only for the hub itself.
    Local,
    /// Allowed, to leave by this next hop only.
    NextHop(Account),
}

/// A verdict with all changes to the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    pub verdict: Verdict,
    pub counts: Vec<(Account, Count)>,
    /// Of a passed packet; XDP writes none.
    pub mark: Option<Mark>,
    /// The frame of a packet that TC passes, if TC has changed it: the source is translated, or the MSS of a SYN lowered.
    pub changed: Option<Vec<u8>>,
}

/// Facts found about a packet on its path.
pub(super) struct Trail {
    /// The owner of the packet's counters.
    pub account: Account,
    counts: Vec<(Account, Count)>,
    /// The next hop by which it leaves.
    next_hop: Option<Account>,
    /// The rules that decided something, abbreviated.
    pub rules: Vec<&'static str>,
    changed: Option<Vec<u8>>,
}

impl Trail {
    /// Drops a packet whose source this rule refuses.
    pub fn spoofed(&mut self, rule: &'static str) -> Verdict {
        self.rules.push(rule);
        Verdict::Drop("spoofed_source")
    }

    fn note(&mut self, applies: bool, rule: &'static str) {
        if applies {
            self.rules.push(rule);
        }
    }

    fn mark(&self, reason: &str) -> Mark {
        match reason {
            "not_attached" => Mark::Cleared,
            // Traffic from the VPC to other destinations is the kernel's business.
            "no_route" if self.account == Account::Vpc => Mark::Cleared,
            "no_route" => Mark::NoRoute,
            "ttl_expired" | "too_big" | "ip_options" | "no_neighbour" | "next_hop_down" => {
                Mark::NextHop(self.next_hop.clone().expect("these come after the next hop"))
            }
            // ESP may arrive from the VPC, and the decrypted packet keeps the mark.
            "to_hub" | "multicast" | "link_local" | "not_ip" | "other_host" | "other_vlan" => {
                if self.account == Account::Vpc { Mark::Cleared } else { Mark::Local }
            }
            other => unreachable!("nothing is passed as {other}"),
        }
    }
}

impl World {
    /// The verdict on a frame that arrives at a hook of the interface with this index.
    pub fn predict(&self, hook: Hook, interface: u32, frame: &[u8]) -> Prediction {
        let (verdict, mut trail) = self.verdict(hook, interface, frame);
        if let Verdict::Pass(reason) | Verdict::Drop(reason) = &verdict {
            trail.counts.push((trail.account.clone(), Count::Reason(reason)));
        }
        let mark = if let Verdict::Pass(reason) = &verdict { Some(trail.mark(reason)) } else { None };
        let changed = trail.changed.filter(|_| matches!(verdict, Verdict::Pass(_)));
        Prediction { verdict, counts: trail.counts, mark, changed }
    }

    /// The rules about sources that decided a frame's verdict, abbreviated: several share one reason. Those about the
    /// MSS of a SYN, too.
    pub fn rules(&self, hook: Hook, interface: u32, frame: &[u8]) -> Vec<&'static str> {
        self.verdict(hook, interface, frame).1.rules
    }

    /// The bucket, of 256, of a frame's flow.
    ///
    /// # Panics
    /// When the frame could not be forwarded.
    pub fn bucket(&self, interface: u32, frame: &[u8]) -> usize {
        let attachment = self.attachment(interface).expect("an attachment");
        let packet = parse::packet(self, Hook::Xdp, attachment.interface, frame).expect("a packet to forward");
        flow::hash(&packet) as usize % flow::BUCKETS
    }

    fn verdict(&self, hook: Hook, interface: u32, frame: &[u8]) -> (Verdict, Trail) {
        let mut trail = Trail {
            account: Account::Unattributed,
            counts: Vec::new(),
            next_hop: None,
            rules: Vec::new(),
            changed: None,
        };
        let verdict = self.stages(hook, interface, frame, &mut trail).unwrap_or_else(|refusal| refusal);
        (verdict, trail)
    }

    fn stages(&self, hook: Hook, interface: u32, frame: &[u8], trail: &mut Trail) -> Result<Verdict, Verdict> {
        let attachment = self.attachment(interface).ok_or(Verdict::Pass("not_attached"))?;
        trail.account = attachment.account();

        let mut packet = parse::packet(self, hook, attachment.interface, frame)?;
        let translations = self.translations(attachment.interface);
        let own_source = packet.source;
        let Some(source) = counterpart(&translations, own_source, View::Hub) else {
            return Err(trail.spoofed("source without a counterpart at the hub"));
        };
        packet.source = source;
        let mut frame = frame.to_vec();
        let done = translate(&mut frame[packet.offset..packet.offset + packet.length], &translations, View::Hub);
        if done.address || done.inner {
            trail.changed = Some(frame.clone());
        }
        trail.note(done.address, "source translated");
        trail.note(done.inner, "destination inside an error translated");
        if let Some(reason) = packet.link_scope {
            self.admit_on_link(&attachment, &packet, own_source, reason, trail)?;
            // The kernel would forward it.
            if reason == "link_local" && !self.is_hub(packet.destination) {
                trail.rules.push("on the link, beyond the hub");
                return Err(Verdict::Drop("selector_mismatch"));
            }
            return Err(Verdict::Pass(reason));
        }
        self.refuse_impossible(&packet, trail)?;
        if self.is_hub(packet.destination) {
            self.admit_to_hub(&attachment, &packet, own_source, trail)?;
            return Err(Verdict::Pass("to_hub"));
        }

        attachment.admit(&packet, own_source, trail)?;
        self.check_reverse_path(packet.source, trail)?;
        let length = packet.length as u64;
        trail.counts.push((trail.account.clone(), Count::Received(length)));

        let target = self.chosen(packet.source, packet.destination).ok_or(Verdict::Pass("no_route"))?;
        let way = self.way(&target, &packet);
        if !self.may_meet(&trail.account, &way.account) {
            return Err(Verdict::Drop("isolated"));
        }
        trail.next_hop = Some(way.account.clone());
        if !self.admits_egress(&way.account, &packet) {
            return Err(Verdict::Drop("selector_mismatch"));
        }
        let egress = way.interface.filter(|interface| interface.up).ok_or(Verdict::Pass("next_hop_down"))?;

        let mut sent = self.clamp(&frame, &packet, &way.account, trail);
        if sent != frame {
            trail.changed = Some(sent.clone());
        }
        // TC leaves the destination to the program at egress.
        if hook == Hook::Xdp {
            let range = packet.offset..packet.offset + packet.length;
            let done = translate(&mut sent[range], &self.translations(egress), View::Site);
            trail.note(done.address, "destination translated");
            trail.note(done.inner, "source inside an error translated");
        }
        let bytes = rewrite::rewrite(hook, &sent, &packet, egress, way.neighbour)?;
        trail.changed = None;
        trail.counts.push((way.account, Count::Sent(length)));
        Ok(Verdict::Forward { interface: egress.index, frame: bytes })
    }
}
