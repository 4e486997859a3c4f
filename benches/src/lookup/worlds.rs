//! The hubs to measure: their routes or connections, and the packets that meet all of them.

use super::Arguments;
use crate::{
    forward::{
        cases::{Dimensions, Program, Table},
        hub::SITES,
        hubs::{self, Load},
        routes::{self, Family},
    },
    scale::subjects::{self, Plan, Subject, Variant},
    settings::Traffic,
};

/// One hub, with each of the ways to look up in turn.
pub struct World {
    pub family: Family,
    pub routes: u32,
    pub connections: u32,
    /// All packets that it is to be measured with.
    pub traffic: Vec<Traffic>,
    /// That of `scale`; none where it is a hub of `forward`.
    plan: Option<Plan>,
}

impl World {
    pub fn config(&self) -> String {
        match &self.plan {
            Some(plan) => plan.config.clone(),
            None => routes::config(&SITES, self.family, self.routes),
        }
    }
}

/// The hubs of `forward`, small ones first.
pub fn by_routes(dimensions: &Dimensions) -> Vec<World> {
    let tables = dimensions.tables().into_iter();
    let world = |Table { family, routes, cases, .. }: Table| {
        let traffic = |(destinations, bytes)| {
            hubs::traffic(Program::Hub, Load { family, routes, destinations, bytes, frames: 0, cpu: None })
        };
        let traffic = cases.into_iter().map(traffic).collect();
        World { family, routes, connections: 2, traffic, plan: None }
    };
    tables.map(world).collect()
}

/// The hubs of `scale`: all have the networks of the one with the most connections.
pub fn by_connections(arguments: &Arguments) -> Vec<World> {
    let counts = &arguments.connections;
    let most = counts.iter().copied().max().unwrap_or_default();
    let families = arguments.family.iter();
    let world = |(family, connections): (Family, u32)| {
        let plan = subjects::plan(Subject::Connections, Variant::Count(connections), most, family);
        let bytes = arguments.packet_bytes.iter();
        let traffic = bytes.map(|bytes| subjects::traffic(&plan, family, *bytes, false)).collect();
        World { family, routes: plan.routes, connections, traffic, plan: Some(plan) }
    };
    families.flat_map(|family| counts.iter().map(|count| (*family, *count))).map(world).collect()
}
