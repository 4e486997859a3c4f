//! Contenders and conditions.

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use super::routes::Family;

/// The forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// A redirect that looks nothing up, at XDP: the floor
    #[value(name = "bare")]
    Bare,
    /// The same at TC: the floor there
    #[value(name = "bare-tc")]
    BareTc,
    /// The agent and its program
    #[value(name = "hub")]
    Hub,
    /// The same with routes and selectors in LPM tries
    #[value(name = "hub-lpm")]
    HubLpm,
    /// The agent with `--attach tc`
    #[value(name = "hub-tc")]
    HubTc,
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
            Self::BareTc => "bare-tc",
            Self::Hub => "hub",
            Self::HubLpm => "hub-lpm",
            Self::HubTc => "hub-tc",
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
            Self::Hub | Self::HubTc => Some("compiled"),
            Self::HubLpm => Some("lpm"),
            _ => None,
        }
    }

    /// More arguments of `vpnhub run`.
    pub fn arguments(self) -> &'static [&'static str] {
        if self == Self::HubTc { &["--attach", "tc"] } else { &[] }
    }

    /// Whether it sends frames out as they came.
    pub fn is_floor(self) -> bool {
        matches!(self, Self::Bare | Self::BareTc)
    }
}

impl Serialize for Program {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The hub's devices that frames come in and go out by. TUN devices are raw IP, and served at TC only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Interfaces {
    /// From veth to veth
    #[value(name = "veth")]
    Veth,
    /// From TUN to TUN
    #[value(name = "tun")]
    Tun,
    /// From veth, where the hub has native XDP, to TUN
    #[value(name = "veth-tun")]
    VethTun,
    /// From TUN to that veth
    #[value(name = "tun-veth")]
    TunVeth,
}

impl Interfaces {
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Tun => "tun",
            Self::VethTun => "veth-tun",
            Self::TunVeth => "tun-veth",
        }
    }

    /// Whether frames come in by a TUN device, and whether they go out by one.
    pub fn are_tun(self) -> [bool; 2] {
        [matches!(self, Self::Tun | Self::TunVeth), matches!(self, Self::Tun | Self::VethTun)]
    }

    /// Those of the programs that can forward here, and their floors first. XDP does not forward to or from a TUN
    /// device, and between two of them the hub is at TC in any case. Empty without a contender.
    pub fn contenders(self, programs: &[Program]) -> Vec<Program> {
        let fits = |program: &Program| match (self, program) {
            (Self::Veth, _) | (_, Program::HubTc | Program::Kernel) => true,
            (Self::VethTun | Self::TunVeth, program) => *program == Program::Hub,
            (Self::Tun, _) => false,
        };
        let mut contenders: Vec<Program> = Vec::new();
        for program in programs.iter().filter(|program| !program.is_floor() && fits(program)) {
            if !contenders.contains(program) {
                contenders.push(*program);
            }
        }
        let needs_floor_at_tc = match self {
            Self::Veth => contenders.contains(&Program::HubTc) || programs.contains(&Program::BareTc),
            _ => !contenders.is_empty(),
        };
        if needs_floor_at_tc {
            contenders.insert(0, Program::BareTc);
        }
        if self == Self::Veth {
            contenders.insert(0, Program::Bare);
        }
        contenders
    }
}

impl Serialize for Interfaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The requested dimensions.
#[derive(Clone, Debug)]
pub struct Dimensions {
    pub interfaces: Vec<Interfaces>,
    pub families: Vec<Family>,
    pub routes: Vec<u32>,
    pub destinations: Vec<u32>,
    pub packet_bytes: Vec<u32>,
}

/// A hub with these interfaces and so many routes; its cases are measured one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub interfaces: Interfaces,
    pub family: Family,
    pub routes: u32,
    /// Destinations and bytes of a frame.
    pub cases: Vec<(u32, u32)>,
}

impl Dimensions {
    /// In order of the number of routes: what a big table leaves for the kernel to clean up disturbs the next.
    pub fn tables(&self) -> Vec<Table> {
        let (mut interfaces, mut families, mut routes) =
            (self.interfaces.clone(), self.families.clone(), self.routes.clone());
        interfaces.sort_unstable();
        interfaces.dedup();
        families.sort_by_key(|family| family.number());
        families.dedup();
        routes.sort_unstable();
        routes.dedup();
        let mut tables = Vec::new();
        for routes in routes {
            for &family in &families {
                let cases = self.cases(family, routes);
                let table =
                    |interfaces: &Interfaces| Table { interfaces: *interfaces, family, routes, cases: cases.clone() };
                tables.extend(interfaces.iter().map(table));
            }
        }
        tables
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
            interfaces: vec![Interfaces::Veth],
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
        let all = Dimensions { interfaces: vec![Interfaces::Tun, Interfaces::Veth, Interfaces::Tun], ..dimensions };
        let order: Vec<_> = all.tables().iter().map(|table| table.interfaces.name()).collect();
        assert_eq!(order, ["veth", "tun"].repeat(4));
    }

    #[test]
    fn contenders_fit_interfaces_and_follow_their_floors() {
        use Program::{Bare, BareTc, Fib, Hub, HubLpm, HubTc, Kernel};
        let all = [Hub, HubLpm, HubTc, Fib, Kernel, Hub];
        assert_eq!(Interfaces::Veth.contenders(&all), [Bare, BareTc, Hub, HubLpm, HubTc, Fib, Kernel]);
        assert_eq!(Interfaces::Tun.contenders(&all), [BareTc, HubTc, Kernel]);
        assert_eq!(Interfaces::VethTun.contenders(&all), [BareTc, Hub, HubTc, Kernel]);
        assert_eq!(Interfaces::TunVeth.contenders(&all), [BareTc, Hub, HubTc, Kernel]);
        assert_eq!(Interfaces::Veth.contenders(&[Fib]), [Bare, Fib]);
        assert_eq!(Interfaces::Veth.contenders(&[BareTc]), [Bare, BareTc]);
        assert_eq!(Interfaces::Tun.contenders(&[Hub, Fib, BareTc]), []);
    }
}
