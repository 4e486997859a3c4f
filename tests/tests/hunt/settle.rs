//! Waits until everything that was sent has been processed.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::dual::Tunnel;
use crate::hunt::{Hunt, ip};
use crate::places::{Place, SITES};
use crate::wires::{MARKER, framed, payload};

const PATIENCE: Duration = Duration::from_secs(20);
/// The interval for resending markers. It matters only if a neighbour is not known yet, or a frame was lost.
const AGAIN: Duration = Duration::from_millis(200);
/// Flows by which a marker goes to a site whose tunnels share them: enough for each tunnel to get one.
const FLOWS: u16 = 12;

/// A packet that must arrive before everything sent earlier is certain to have been processed.
#[derive(Debug)]
struct Marker {
    id: u64,
    from: (Place, Tunnel),
    to: (Place, Tunnel),
    flows: u16,
    v6: bool,
}

impl Hunt<'_> {
    /// Waits until everything sent has been processed: until a marker, sent afterwards, has arrived on every path that
    /// is certain to be open.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let mut ways: Vec<(Place, Place)> = Vec::new();
        for site in SITES {
            let other =
                if self.arena.variant.segments && !site.may_reach(Place::Vpc) { Place::Delta } else { Place::Vpc };
            ways.extend([(site, other), (other, site)]);
        }
        ways.extend([(Place::Mgmt, Place::Vpc), (Place::Wan, Place::Vpc)]);
        self.settle_ways(&ways)
    }

    /// Like [`settle`](Self::settle), on these paths only.
    pub fn settle_ways(&mut self, ways: &[(Place, Place)]) -> anyhow::Result<()> {
        let mut missing = self.markers(ways);
        let deadline = Instant::now() + PATIENCE;
        let mut port = 5000;
        while !missing.is_empty() {
            for Marker { id, from, to, flows, v6 } in &missing {
                let place = from.0;
                let source = if self.translates(place) { place.own(place.host(*v6)) } else { place.host(*v6) };
                for flow in 0..*flows {
                    let marker = ip(source, to.0.host(*v6)).udp(port + flow, 6000).bytes(payload(*id, 32));
                    let bytes = framed(place, &marker, &self.macs);
                    self.wires.send(*from, &bytes);
                }
            }
            // Other flows, in case these are all on one tunnel.
            port += FLOWS;
            let again = Instant::now() + AGAIN;
            while !missing.is_empty() && Instant::now() < again {
                self.look();
                missing.retain(|marker| !self.marked.contains(&(marker.id, marker.to.0, marker.to.1)));
                if !missing.is_empty() {
                    thread::yield_now();
                }
            }
            if Instant::now() > deadline {
                bail!("{}: {missing:?} have not arrived: what is allowed does not pass", self.phase);
            }
        }
        self.marked.clear();
        Ok(())
    }

    /// Those of each way, by each tunnel that is up at its start and each that carries traffic at its end.
    fn markers(&mut self, ways: &[(Place, Place)]) -> Vec<Marker> {
        let (stage, dual) = (self.next.unwrap_or(self.stage), self.arena.variant.dual);
        let mut markers = Vec::new();
        for (from, to) in ways {
            let starts: Vec<Tunnel> =
                Tunnel::ALL.into_iter().filter(|tunnel| stage.is_up(dual, *from, *tunnel)).collect();
            let ends: Vec<Tunnel> =
                Tunnel::ALL.into_iter().filter(|tunnel| stage.carries(dual, *to, *tunnel)).collect();
            let flows = if ends.len() > 1 { FLOWS } else { 1 };
            for (start, end) in starts.iter().flat_map(|start| ends.iter().map(move |end| (*start, *end))) {
                for v6 in [false, true] {
                    self.rounds += 1;
                    let id = MARKER | self.rounds;
                    markers.push(Marker { id, from: (*from, start), to: (*to, end), flows, v6 });
                }
            }
        }
        markers
    }
}
