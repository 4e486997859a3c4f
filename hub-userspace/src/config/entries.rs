//! The keys of each section: their names, which are required, and their defaults.

use hub_common::mark::Mark;
use toml::{Spanned, de::DeValue};

use super::{
    address::site_address,
    diagnostic::{Located, Problem},
    draft::{
        ConnectionDraft, CustomerGatewayDraft, DataplaneDraft, GatewayDraft, LearnDraft, MetricsDraft, RouteDraft,
        SegmentDraft, UnderlayDraft, VpcDraft,
    },
    learn::{self, RouteProtocol},
    marks, metrics,
    model::{
        DEFAULT_LOOKUP_MEMORY, DEFAULT_MAX_CONNECTIONS, DEFAULT_PUBLISH_TABLE, DEFAULT_UP_DELAY, DEFAULT_VICI_SOCKET,
        DEFAULT_WEIGHT, LookupKind, MssClamp, OnStop, ReversePath, SelectorSource, Service, Spread,
    },
    mss_clamp::mss_clamp,
    policy_routes::{DEFAULT_MAX_POLICY_ROUTES, MAX_POLICY_ROUTES},
    prefix::{self, Purpose},
    read::SectionReader,
    role::Role,
    section::Section,
    segments,
    translate::TranslateDraft,
    tunnels, value,
};

/// Maximum quota of connections.
pub(super) const MAX_CONNECTIONS: u32 = 4000;
/// `RT_TABLE_LOCAL` (linux/rtnetlink.h): the kernel's own addresses.
pub(super) const TABLE_LOCAL: u32 = 255;
/// MiB of all chunks that the kernel program supports.
const MAX_LOOKUP_MEMORY: u32 = 4096;
const SOURCES: [(&str, SelectorSource); 3] =
    [("file", SelectorSource::File), ("ike", SelectorSource::Ike), ("xfrm", SelectorSource::Xfrm)];
const ON_STOP: [(&str, OnStop); 2] = [("keep", OnStop::Keep), ("detach", OnStop::Detach)];
const SPREADS: [(&str, Spread); 4] =
    [("auto", Spread::Auto), ("rps", Spread::Rps), ("xdp", Spread::Xdp), ("off", Spread::Off)];
const ROLES: [(&str, Role); 2] = [("active", Role::Active), ("standby", Role::Standby)];
const REVERSE_PATHS: [(&str, ReversePath); 2] = [("strict", ReversePath::Strict), ("off", ReversePath::Off)];

impl SectionReader<'_, '_> {
    pub fn gateway<'a>(&mut self, table: &'a Spanned<DeValue<'a>>) -> Option<GatewayDraft> {
        const KEYS: &[&str] = &[
            "name",
            "max_connections",
            "max_policy_routes",
            "spoke_to_spoke",
            "allow_default_route",
            "address",
            "vici_socket",
            "services",
            "role_at_boot",
        ];
        let section = self.open(table, "gateway".to_owned(), KEYS, "[gateway]")?;
        let report = &mut *self.report;
        let default_quota = u32::try_from(DEFAULT_MAX_CONNECTIONS).unwrap_or(MAX_CONNECTIONS);
        let default_policies = u32::try_from(DEFAULT_MAX_POLICY_ROUTES).unwrap_or(MAX_POLICY_ROUTES);
        Some(GatewayDraft {
            name: section.required("name", "\"my-hub\"", report, value::gateway_name),
            max_connections: section.or_default("max_connections", default_quota, report, |value| {
                value::integer(value, 1..=MAX_CONNECTIONS)
            }),
            max_policy_routes: section.or_default("max_policy_routes", default_policies, report, |value| {
                value::integer(value, 1..=MAX_POLICY_ROUTES)
            }),
            spoke_to_spoke: section.or_default("spoke_to_spoke", true, report, value::boolean),
            allow_default_route: section.or_default("allow_default_route", false, report, value::boolean),
            address: section.optional("address", report, value::host_address),
            may_have_address: !section.lacks("address"),
            vici_socket: section.or_default("vici_socket", DEFAULT_VICI_SOCKET.into(), report, value::socket),
            services: section.set_or_default("services", Service::defaults(), "[\"icmp\"]", report, value::service),
            role_at_boot: section
                .or_default("role_at_boot", Role::Active, report, |value| value::choice(value, &ROLES)),
        })
    }

    pub fn dataplane<'a>(&mut self, table: &'a Spanned<DeValue<'a>>) -> Option<DataplaneDraft> {
        const KEYS: &[&str] = &["lookup", "lookup_memory", "on_stop", "mark"];
        let section = self.open(table, "dataplane".to_owned(), KEYS, "[dataplane]")?;
        let report = &mut *self.report;
        Some(DataplaneDraft {
            lookup: section.or_default("lookup", LookupKind::Compiled, report, value::lookup),
            lookup_memory: section.or_default("lookup_memory", DEFAULT_LOOKUP_MEMORY, report, |value| {
                value::integer(value, 1..=MAX_LOOKUP_MEMORY)
            }),
            on_stop: section.or_default("on_stop", OnStop::Keep, report, |value| value::choice(value, &ON_STOP)),
            mark: section.or_default("mark", Mark::default(), report, marks::mark),
        })
    }

    pub fn metrics<'a>(&mut self, table: &'a Spanned<DeValue<'a>>) -> Option<MetricsDraft> {
        let section = self.open(table, "metrics".to_owned(), &["listen"], "[metrics]")?;
        Some(MetricsDraft { listen: section.required("listen", "\"127.0.0.1:9118\"", self.report, metrics::listen) })
    }

    pub fn learn<'a>(&mut self, table: &'a Spanned<DeValue<'a>>) -> Option<LearnDraft> {
        const KEYS: &[&str] = &["table", "protocols", "max_per_connection"];
        let section = self.open(table, "learn".to_owned(), KEYS, "[learn]")?;
        let report = &mut *self.report;
        let (protocols, quota) = (RouteProtocol::defaults(), learn::DEFAULT_MAX_LEARNED);
        Some(LearnDraft {
            table: section.or_default("table", learn::DEFAULT_TABLE, report, learn::table),
            protocols: section.list_or_default("protocols", protocols, "[\"bird\", \"bgp\"]", report, learn::protocol),
            max_per_connection: section
                .or_default("max_per_connection", quota, report, |value| value::integer(value, 1..=learn::MAX_LEARNED)),
        })
    }

    pub fn vpc<'a>(&mut self, table: &'a Spanned<DeValue<'a>>) -> Option<VpcDraft> {
        const KEYS: &[&str] = &["interface", "cidrs", "publish_table"];
        let section = self.open(table, "vpc".to_owned(), KEYS, "[vpc]")?;
        let report = &mut *self.report;
        Some(VpcDraft {
            at: section.at,
            interface: section.required("interface", "\"eth1\"", report, value::interface),
            cidrs: section
                .list("cidrs", "[\"192.168.0.0/24\"]", report, |value| prefix::prefix(value, Purpose::Forwarding)),
            publish_table: section.or_default("publish_table", DEFAULT_PUBLISH_TABLE, report, publish_table),
        })
    }

    pub fn underlay(&mut self, name: Located<String>, section: &Section<'_>) -> UnderlayDraft {
        UnderlayDraft { name, spread: section.or_default("spread", Spread::Auto, self.report, spread) }
    }

    pub fn segment(&mut self, name: Located<String>, section: &Section<'_>) -> SegmentDraft {
        let reaches = section.set_or_default("reaches", [], "[\"vpc\"]", self.report, value::reference);
        SegmentDraft { name, reaches }
    }

    pub fn customer_gateway(&mut self, name: Located<String>, section: &Section<'_>) -> CustomerGatewayDraft {
        let address = section.required("address", "\"198.51.100.10\"", self.report, site_address);
        CustomerGatewayDraft { name, address }
    }

    pub fn connection(&mut self, name: Located<String>, section: &Section<'_>) -> ConnectionDraft {
        let tunnels = self.tunnels(section);
        let report = &mut *self.report;
        let selector = |value| prefix::prefix(value, Purpose::Selector);
        let all_have_gateways = tunnels.items.iter().all(|tunnel| tunnel.customer_gateway.is_some());
        let customer_gateway = match tunnels.items.is_empty() || !all_have_gateways {
            true => {
                let example = "\"NAME\" of a [customer_gateway.NAME]";
                section.required("customer_gateway", example, report, value::reference)
            }
            false => section.optional("customer_gateway", report, value::reference),
        };
        let interface = match section.get(tunnels::KEY) {
            None => section.required("interface", "\"tun0\"", report, value::interface),
            Some(_) => section.optional("interface", report, value::interface),
        };
        let connection = ConnectionDraft {
            name,
            customer_gateway,
            segment: section.or_default("segment", segments::DEFAULT.to_owned(), report, value::reference),
            enabled: section.or_default("enabled", true, report, value::boolean),
            interface,
            peer: section.optional("peer", report, value::host_address),
            local_cidrs: section.list("local_cidrs", "[\"0.0.0.0/0\"]", report, selector),
            remote_cidrs: section.list("remote_cidrs", "[\"10.10.10.0/24\"]", report, selector),
            translate: TranslateDraft { items: Vec::new(), sound: true },
            health_check: None,
            up_delay: section.or_default("up_delay", DEFAULT_UP_DELAY, report, value::delay),
            ipsec: None,
            selectors: section.optional("selectors", report, |value| value::choice(value, &SOURCES)),
            reverse_path: section
                .or_default("reverse_path", ReversePath::Strict, report, |value| value::choice(value, &REVERSE_PATHS)),
            mss_clamp: section.or_default("mss_clamp", MssClamp::default(), report, mss_clamp),
            tunnels,
            of_tunnel: None,
        };
        if let Some(Located { value: SelectorSource::Ike, at }) = connection.selectors
            && section.lacks("ipsec")
        {
            let problem = Problem::new("the connection has no [ipsec] section to negotiate with");
            let help = format!("add [{}], or write selectors = \"xfrm\"", section.path_of("ipsec"));
            report.error(at, section.path_of("selectors"), problem.help(help));
        }
        let translate = self.translate(section);
        let health_check =
            section.get("health_check").and_then(|table| self.health_check(table, section.path_of("health_check")));
        let ipsec = section
            .get("ipsec")
            .and_then(|table| self.ipsec(table, section.path_of("ipsec"), connection.tunnels.is_present));
        ConnectionDraft { translate, health_check, ipsec, ..connection }
    }

    pub fn route(&mut self, number: usize, section: &Section<'_>) -> RouteDraft {
        let report = &mut *self.report;
        RouteDraft {
            number,
            at: section.at,
            destination: section.required("destination", "\"10.10.10.0/24\"", report, |value| {
                prefix::prefix(value, Purpose::Forwarding)
            }),
            next_hop: section.required("next_hop", "\"NAME\" of a [connection.NAME]", report, value::reference),
            weight: section.or_default("weight", DEFAULT_WEIGHT, report, weight),
            publish: section.or_default("publish", false, report, value::boolean),
        }
    }
}

pub(super) fn weight(value: &DeValue<'_>) -> Result<u8, Problem> {
    // 100 fits in a u8.
    value::integer(value, 0..=100).map(|weight| u8::try_from(weight).unwrap_or(DEFAULT_WEIGHT))
}

fn spread(value: &DeValue<'_>) -> Result<Spread, Problem> {
    value::choice(value, &SPREADS)
}

fn publish_table(value: &DeValue<'_>) -> Result<u32, Problem> {
    let table = value::integer(value, 1..=u32::MAX)?;
    let taken_by = match table {
        TABLE_LOCAL => "the kernel's table of local addresses",
        _ => return Ok(table),
    };
    Err(Problem::new(format!("{table} is {taken_by}")).help("use 254 (main) or a table of your own"))
}
