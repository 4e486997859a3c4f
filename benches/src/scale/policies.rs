//! Hubs with policy routes, and with segments.

use std::fmt::Write as _;

use super::subjects::{Plan, connection, names, route, sender, text};
use crate::{
    forward::routes::{self, FIRST, Family, SLOT},
    testbed::{A, B},
};

const FLOWS: u32 = 8;

/// `most` routes to as many networks; the first `count` of the networks also have a policy route from the sender's.
pub(super) fn policy_routes(family: Family, count: u32, most: u32) -> Plan {
    let network = |slot: u32| routes::network(family, FIRST + slot * SLOT, 24);
    let mut config = sender(family);
    config.connections.push(connection(&B, 0, &[family.all()]));
    config.routes.extend((0..most).map(|slot| route(network(slot), 0)));
    let [next_hop] = &names(1)[..] else { unreachable!("one name") };
    for slot in 0..count {
        let (source, destination) = (family.network(&A), network(slot));
        write!(
            config.sections,
            "[[policy_route]]\nsource = \"{source}\"\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"\n\n"
        )
        .expect("a string takes all");
    }
    let quota = format!("[gateway]\nmax_policy_routes = {most}\n");
    Plan {
        devices: 1,
        arguments: vec![],
        config: text(&config).replacen("[gateway]\n", &quota, 1),
        routes: most,
        destinations: most,
        flows: FLOWS,
        used: names(1),
        translated: None,
        listeners: None,
    }
}

/// The same, with each site in a segment of its own.
pub(super) fn in_segments(plan: Plan) -> Plan {
    let mut config = plan.config;
    for (site, other) in [(&A, &B), (&B, &A)] {
        let (site, other) = (&site.place, &other.place);
        config = config.replacen(
            &format!("[connection.{site}]\n"),
            &format!(
                "[segment.of-{site}]\nreaches = [\"of-{other}\"]\n\n[connection.{site}]\nsegment = \"of-{site}\"\n"
            ),
            1,
        );
    }
    Plan { config, ..plan }
}
