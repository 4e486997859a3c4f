//! The program's hooks: XDP does not reach every interface; TC always runs behind it.

use super::{Prediction, Verdict, World};

/// The hook at which the program receives a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc {
        /// The kernel's protocol of the frame: `skb->protocol`, an `EtherType`.
        protocol: u16,
    },
}

impl World {
    /// Whether only TC reaches the attachment with this interface index.
    pub fn is_by_tc(&self, interface: u32) -> bool {
        let tc_only = self.interfaces.iter().any(|other| other.index == interface && other.tc_only);
        tc_only && self.attachment(interface).is_some()
    }
}

impl Prediction {
    /// The verdict at XDP. TC receives, decides and counts again whatever XDP passes, which is unchanged.
    #[must_use]
    pub fn by_xdp(self, world: &World) -> Self {
        match self.verdict {
            Verdict::Pass(_) => Self { counts: Vec::new(), mark: None, changed: None, ..self },
            Verdict::Forward { interface, .. } if world.is_by_tc(interface) => {
                Self { verdict: Verdict::Pass("handed_over"), counts: Vec::new(), mark: None, changed: None }
            }
            _ => Self { changed: None, ..self },
        }
    }

    /// The verdict at TC. From Ethernet to raw IP it leaves the link header, which the kernel removes.
    #[must_use]
    pub fn by_tc(mut self, world: &World, interface: u32, received: &[u8]) -> Self {
        let ethernet = |index| world.interfaces.iter().any(|other| other.index == index && other.ethernet);
        if let Verdict::Forward { interface: egress, frame } = &mut self.verdict
            && ethernet(interface)
            && !ethernet(*egress)
        {
            let ethertype: [u8; 2] = if frame[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
            frame.splice(0..0, received[..12].iter().copied().chain(ethertype));
        }
        self
    }
}
