//! The status of a connection with tunnels, made of theirs.

use super::{Attachment, ConnectionStatus, Traffic};
use crate::connection::state::State;

impl ConnectionStatus {
    /// The status of a connection with these tunnels; `None` without any. What only a tunnel has, such as SAs and health,
    /// is absent.
    pub fn of_tunnels(name: &str, tunnels: Vec<Self>) -> Option<Self> {
        let state = tunnels.iter().map(|tunnel| tunnel.state).min_by_key(|state| rank(*state))?;
        let first = tunnels.first()?;
        let of_state = || tunnels.iter().filter(|tunnel| tunnel.state == state);
        let reasons =
            of_state().filter_map(|tunnel| Some(format!("{}: {}", tunnel.name, tunnel.state_reason.as_ref()?)));
        let reasons: Vec<String> = reasons.collect();
        let is_same = tunnels.iter().all(|tunnel| tunnel.attachment.attach == first.attachment.attach);
        let attach = first.attachment.attach.clone().filter(|_| is_same);
        Some(Self {
            name: name.to_owned(),
            origin: first.origin.clone(),
            segment: first.segment.clone(),
            interface: tunnels.iter().map(|tunnel| tunnel.interface.as_str()).collect::<Vec<_>>().join(", "),
            state,
            state_reason: (state != State::Up && !reasons.is_empty()).then(|| reasons.join("; ")),
            state_seconds: of_state().map(|tunnel| tunnel.state_seconds).fold(0.0, f64::max),
            warnings: Vec::new(),
            warning_codes: Vec::new(),
            state_changes: tunnels.iter().map(|tunnel| tunnel.state_changes).sum(),
            health: None,
            ipsec: None,
            learned: None,
            attachment: Attachment { attach, attach_reason: None },
            traffic: tunnels.iter().fold(Traffic::default(), |sum, tunnel| sum.plus(&tunnel.traffic)),
            cpu_packets: Vec::new(),
            tunnel_weight: None,
            tunnels,
        })
    }
}

/// Lower is better.
const fn rank(state: State) -> u8 {
    match state {
        State::Up => 0,
        State::Degraded => 1,
        State::HoldDown => 2,
        State::Down => 3,
        State::AdminDown => 4,
    }
}

impl Traffic {
    fn plus(mut self, other: &Self) -> Self {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        for (sums, counts) in [(&mut self.drops, &other.drops), (&mut self.passes, &other.passes)] {
            for (reason, count) in counts {
                *sums.entry(reason.clone()).or_default() += count;
            }
        }
        self
    }
}
