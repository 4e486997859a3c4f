//! What the hub may cost at most, as a ratio to others: for the shortest packets, by routes and destinations.

use std::fmt;

use super::{
    cases::{Interfaces, Program},
    results::Row,
    routes::Family,
};

/// Upper limits of a ratio, by the indices of [`CASES`].
type Limits = [f64; 5];

/// Routes and destinations.
const CASES: [(u32, u32); 5] = [(10, 10), (10_000, 1000), (10_000, 8000), (1_000_000, 1000), (1_000_000, 64_000)];

const HUB_TO_BARE_IPV4: Limits = [1.10, 1.10, 1.13, 1.20, 1.7];
const HUB_TO_BARE_IPV6: Limits = [1.15, 1.20, 1.25, 1.4, 2.5];
const TC_TO_BARE_IPV4: Limits = [1.08, 1.08, 1.12, 1.15, 1.4];
const TC_TO_BARE_IPV6: Limits = [1.12, 1.15, 1.2, 1.3, 1.8];
const TC_TO_KERNEL: Limits = [0.5, 0.45, 0.4, 0.4, 0.4];
/// With native XDP on the veth, in front of the TC program that forwards.
const XDP_TO_TC: Limits = [1.02; 5];

/// Longer packets have no targets.
const PACKET_BYTES: u32 = 64;

/// A target, and what was measured.
pub struct Target<'a> {
    row: &'a Row,
    to: Program,
    limit: f64,
    found: f64,
    /// The same ratio of the floor: no program can be below it.
    floor: Option<f64>,
}

impl Target<'_> {
    pub fn is_reached(&self) -> bool {
        self.found <= self.limit
    }
}

/// The targets of a row, as far as their ratios were measured.
pub fn of(row: &Row) -> Vec<Target<'_>> {
    let measured = &row.measured;
    let case = CASES.iter().position(|case| *case == (measured.routes, measured.destinations));
    let (Some(case), true) = (case, measured.packet_bytes == PACKET_BYTES.max(measured.family.shortest())) else {
        return Vec::new();
    };
    let by_family = |ipv4, ipv6| if measured.family == Family::V4 { ipv4 } else { ipv6 };
    let ratios = match (row.interfaces, measured.program) {
        (Interfaces::Veth, Program::Hub) => {
            vec![(Program::Bare, measured.ratio_to_bare, by_family(HUB_TO_BARE_IPV4, HUB_TO_BARE_IPV6))]
        }
        (Interfaces::VethTun | Interfaces::TunVeth, Program::Hub) => {
            vec![(Program::HubTc, row.ratio_to_hub_tc, XDP_TO_TC)]
        }
        (Interfaces::Veth | Interfaces::Tun, Program::HubTc) => vec![
            (Program::BareTc, row.ratio_to_bare_tc, by_family(TC_TO_BARE_IPV4, TC_TO_BARE_IPV6)),
            (Program::Kernel, row.ratio_to_ip_forward, TC_TO_KERNEL),
        ],
        _ => Vec::new(),
    };
    let target = |(to, ratio, limits): (Program, Option<f64>, Limits)| {
        let found = ratio?;
        let floor = row.ratio_to_bare_tc.filter(|_| to == Program::Kernel).map(|to_floor| found / to_floor);
        Some(Target { row, to, limit: limits[case], found, floor })
    };
    ratios.into_iter().filter_map(target).collect()
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, to, limit, found, floor } = self;
        let measured = &row.measured;
        write!(
            f,
            "target {} {}, IPv{}, {} routes, {} destinations: {} at most {limit} times {}; {found:.3}",
            if self.is_reached() { "reached:" } else { "MISSED: " },
            row.interfaces.name(),
            measured.family.number(),
            measured.routes,
            measured.destinations,
            measured.program.name(),
            to.name(),
        )?;
        floor.map_or(Ok(()), |floor| write!(f, " ({} {floor:.3})", Program::BareTc.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::results::rows, *};

    fn targets(interfaces: Interfaces, family: Family, case: (u32, u32, u32), hub: Program) -> Vec<String> {
        let (routes, destinations, bytes) = case;
        let times = [
            (Program::Bare, vec![50.0]),
            (Program::BareTc, vec![100.0]),
            (hub, vec![113.0]),
            (Program::HubTc, vec![112.0]),
            (Program::Kernel, vec![250.0]),
        ];
        let rows = rows(interfaces, (family, routes), (destinations, bytes), &times);
        let row = rows.iter().find(|row| row.measured.program == hub).unwrap();
        of(row).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tc_hub_has_targets_against_its_floor_and_kernel() {
        let shown = targets(Interfaces::Tun, Family::V4, (10_000, 8000, 64), Program::HubTc);
        let [floor, kernel] = &shown[..] else { panic!("{shown:?}") };
        let conditions = "tun, IPv4, 10000 routes, 8000 destinations: hub-tc at most";
        assert_eq!(*floor, format!("target MISSED:  {conditions} 1.12 times bare-tc; 1.130"));
        assert_eq!(*kernel, format!("target MISSED:  {conditions} 0.4 times ip_forward; 0.452 (bare-tc 0.400)"));
        let shown = targets(Interfaces::Veth, Family::V6, (10, 10, 72), Program::HubTc);
        assert!(shown[0].starts_with("target MISSED:  veth, IPv6") && shown[0].contains("at most 1.12"), "{shown:?}");
        assert!(shown[1].starts_with("target reached:") && shown[1].contains("at most 0.5"), "{shown:?}");
    }

    #[test]
    fn default_hub_is_compared_by_its_interfaces() {
        let shown = targets(Interfaces::Veth, Family::V4, (1_000_000, 64_000, 64), Program::Hub);
        assert!(shown.len() == 1 && shown[0].contains("at most 1.7 times bare; 2.260"), "{shown:?}");
        for interfaces in [Interfaces::VethTun, Interfaces::TunVeth] {
            let shown = targets(interfaces, Family::V6, (10, 10, 72), Program::Hub);
            assert!(shown.len() == 1 && shown[0].ends_with("at most 1.02 times hub-tc; 1.009"), "{shown:?}");
            assert!(shown[0].starts_with("target reached:"), "{shown:?}");
        }
    }

    #[test]
    fn other_cases_have_no_target() {
        for case in [(10, 1, 64), (10_000, 10_000, 64), (10, 10, 1514)] {
            assert!(targets(Interfaces::Veth, Family::V4, case, Program::HubTc).is_empty(), "{case:?}");
        }
        assert!(targets(Interfaces::Veth, Family::V4, (10, 10, 64), Program::Fib).is_empty());
    }
}
