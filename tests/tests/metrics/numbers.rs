//! Made-up numbers.

use hub_common::Reason;
use hub_userspace::{
    config::Role,
    connection::state::Health,
    datapath::Counters,
    observe::metrics::{
        ConnectionScrape, GroupScrape, HealthScrape, IkeScrape, ProcessScrape, QuotaScrape, Scrape, UnderlayScrape,
    },
};

pub const NAMES: [&str; 3] = ["shanghai", "hangzhou.dc-1_a", "ningbo"];

/// Each number differs: `base` in millions, then the counter.
pub fn counters(base: u64) -> Counters {
    let base = base * 1_000_000;
    Counters {
        rx_packets: base + 1,
        rx_bytes: base + 2,
        tx_packets: base + 3,
        tx_bytes: base + 4,
        reasons: std::array::from_fn(|reason| base + 100 + reason as u64),
    }
}

/// The count of a reason in [`counters`].
pub fn count(base: u64, reason: Reason) -> u64 {
    base * 1_000_000 + 100 + reason as u64
}

/// Three connections: degraded, down, and one without IPsec and health check.
pub fn scrape() -> Scrape {
    let [up, down, plain] = NAMES.map(str::to_owned);
    let connections = vec![
        ConnectionScrape {
            name: up,
            is_up: true,
            is_admin_up: true,
            state_changes: 5,
            counters: counters(1),
            child_sas: Some(2),
            ike: Some(IkeScrape { is_up: true, rekeys: 6 }),
            health: Some(HealthScrape { state: Some(Health::Degraded), round_trip: Some(0.025), sent: 70, lost: 8 }),
            refused_routes: Some(3),
        },
        ConnectionScrape {
            name: down,
            is_up: false,
            is_admin_up: true,
            state_changes: 9,
            counters: counters(2),
            child_sas: Some(0),
            ike: Some(IkeScrape { is_up: false, rekeys: 0 }),
            health: Some(HealthScrape { state: Some(Health::Down), round_trip: None, sent: 71, lost: 71 }),
            refused_routes: Some(0),
        },
        ConnectionScrape { name: plain, counters: counters(3), ..ConnectionScrape::default() },
    ];
    let shares = vec![("ningbo".to_owned(), 0.25), ("shanghai".to_owned(), 0.75)];
    let destinations = ["10.10.10.0/24", "fd00:10::/64"].map(|prefix| prefix.parse().unwrap()).to_vec();
    Scrape {
        with_tunnels: Vec::new(),
        connections,
        vpc: Some(counters(4)),
        unattributed: counters(5),
        cpu_packets: (0..300).map(|cpu| (cpu, 1 << (cpu % 32))).collect(),
        underlays: vec![UnderlayScrape { name: "eth0".to_owned(), interrupts: vec![(0, 11), (3, 12)] }],
        groups: vec![GroupScrape { shares, destinations }],
        omitted_shares: 12,
        routes: vec![("file", 30), ("store", 4)],
        quotas: vec![QuotaScrape { name: "connections", used: 3, limit: 10 }],
        set_aside: 2,
        last_reload_success: true,
        role: Role::Withdrawn,
        process: Some(ProcessScrape {
            cpu_seconds: 1.5,
            resident_bytes: 80 << 20,
            virtual_bytes: 1 << 30,
            open_fds: 40,
            max_fds: Some(1024),
            start_time_seconds: 1.75e9,
        }),
    }
}
