//! Contenders and conditions.

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use super::routes::Family;

/// The forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// A redirect that looks nothing up: the floor
    #[value(name = "bare")]
    Bare,
    /// The agent and its program
    #[value(name = "hub")]
    Hub,
    /// The same with routes and selectors in LPM tries
    #[value(name = "hub-lpm")]
    HubLpm,
    /// An XDP program that asks the kernel for the route (`bpf_fib_lookup`)
    #[value(name = "fib")]
    Fib,
    /// The kernel
    #[value(name = "ip_forward")]
    Kernel,
    /// The kernel, with a flow table of nftables
    #[value(name = "flowtable")]
    FlowTable,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Hub => "hub",
            Self::HubLpm => "hub-lpm",
            Self::Fib => "fib",
            Self::Kernel => "ip_forward",
            Self::FlowTable => "flowtable",
        }
    }
}

impl Program {
    /// Its configuration's `lookup`, if it is an agent's.
    pub fn lookup(self) -> Option<&'static str> {
        match self {
            Self::Hub => Some("compiled"),
            Self::HubLpm => Some("lpm"),
            _ => None,
        }
    }
}

impl Serialize for Program {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The requested dimensions.
#[derive(Clone, Debug)]
pub struct Dimensions {
    pub families: Vec<Family>,
    pub routes: Vec<u32>,
    pub destinations: Vec<u32>,
    pub packet_bytes: Vec<u32>,
}

/// A hub with so many routes; its cases are measured one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub routes: u32,
    /// Destinations and bytes of a frame.
    pub cases: Vec<(u32, u32)>,
}

impl Dimensions {
    /// In order of the number of routes: what a big table leaves for the kernel to clean up disturbs the next.
    pub fn tables(&self) -> Vec<Table> {
        let (mut families, mut routes) = (self.families.clone(), self.routes.clone());
        families.sort_by_key(|family| family.number());
        families.dedup();
        routes.sort_unstable();
        routes.dedup();
        let table = |(routes, family): (u32, Family)| Table { family, routes, cases: self.cases(family, routes) };
        routes.into_iter().flat_map(|routes| families.iter().map(move |family| (routes, *family))).map(table).collect()
    }

    fn cases(&self, family: Family, routes: u32) -> Vec<(u32, u32)> {
        let mut cases: Vec<_> = self
            .destinations
            .iter()
            .flat_map(|destinations| {
                self.packet_bytes.iter().map(|bytes| possible(family, routes, *destinations, *bytes))
            })
            .collect();
        cases.sort_unstable();
        cases.dedup();
        cases
    }
}

/// The nearest possible case: a route has one destination, and IPv6 frames are longer.
pub fn possible(family: Family, routes: u32, destinations: u32, bytes: u32) -> (u32, u32) {
    (destinations.min(routes), bytes.max(family.shortest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_with_equal_dimensions_are_measured_once() {
        let dimensions = Dimensions {
            families: vec![Family::V6, Family::V4, Family::V4],
            routes: vec![1000, 10],
            destinations: vec![1, 1000, 64_000],
            packet_bytes: vec![64, 72],
        };
        let tables = dimensions.tables();
        let order: Vec<_> = tables.iter().map(|table| (table.routes, table.family.number())).collect();
        assert_eq!(order, [(10, 4), (10, 6), (1000, 4), (1000, 6)]);
        assert_eq!(tables[0].cases, [(1, 64), (1, 72), (10, 64), (10, 72)]);
        assert_eq!(tables[3].cases, [(1, 72), (1000, 72)]);
    }
}
