//! Result of a flood.

use std::{fmt, time::Duration};

use serde::Serialize;

/// One run. Packets a second mean something only when it is not void.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Frames that the generator made.
    pub sent: u64,
    /// Of those, the ones that came to the far device, right or not.
    pub received: u64,
    /// Of those, the ones that came out wrong.
    pub garbled: u64,
    /// From the first frame made to the last one received.
    pub seconds: f64,
    /// Received a second.
    pub packets_per_second: f64,
    /// Whether fewer or more arrived than were sent, or any came out wrong: then this is no measurement.
    pub void: bool,
}

impl Report {
    pub fn new(sent: u64, received: u64, garbled: u64, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        // Counts are far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
        let packets_per_second = received as f64 / seconds;
        let void = received == 0 || received != sent || garbled != 0;
        Self { sent, received, garbled, seconds, packets_per_second, void }
    }

    pub fn nanoseconds_per_packet(&self) -> f64 {
        1e9 / self.packets_per_second
    }

    /// Hint for a void run.
    pub fn hint(&self) -> Option<&'static str> {
        if !self.void {
            None
        } else if self.received == 0 {
            Some(
                "nothing arrived: is --gateway-mac the hub's device, does that device take redirected frames (GRO on, or \
                 an XDP program: `vpnhub-bench pass`), does the hub know the route and the neighbour, and does the frame \
                 fit the MTU?",
            )
        } else if self.garbled > 0 {
            Some("frames arrived corrupted: MAC, TTL, checksum, address, port or length")
        } else if self.received > self.sent {
            Some("more frames arrived than were sent: is another flood running to this device?")
        } else {
            Some("frames were lost: is the core shared with other work, or a queue too short (try a smaller --batch)?")
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, garbled, seconds, packets_per_second, void } = self;
        write!(f, "{sent} sent, {received} received, {garbled} garbled in {seconds:.3} s: ")?;
        if *void { write!(f, "void") } else { write!(f, "{:.3} Mpps", packets_per_second / 1e6) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_with_loss_or_garbling_is_void() {
        let void = |sent, received, garbled| Report::new(sent, received, garbled, Duration::from_secs(2)).void;
        assert!(!void(10, 10, 0));
        for (sent, received, garbled) in [(10, 9, 0), (10, 11, 0), (10, 10, 1), (10, 0, 0), (0, 0, 0)] {
            assert!(void(sent, received, garbled), "{sent} {received} {garbled}");
        }
        let rate = Report::new(10, 10, 0, Duration::from_secs(2)).packets_per_second;
        assert!((rate - 5.0).abs() < 1e-9);
    }

    #[test]
    fn void_report_has_hint() {
        for (sent, received, garbled) in [(10, 9, 0), (10, 11, 0), (10, 10, 1), (10, 0, 0)] {
            assert!(Report::new(sent, received, garbled, Duration::from_secs(1)).hint().is_some());
        }
        assert_eq!(Report::new(10, 10, 0, Duration::from_secs(1)).hint(), None);
    }
}
