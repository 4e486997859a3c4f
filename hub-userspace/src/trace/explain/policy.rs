//! Stage 4: policy routes. The scan of all of them is independent of the combinations that the program looks up.

use std::{net::IpAddr, sync::Arc};

use super::{Explainer, Ip, Object, Stage, Target};
use crate::routing::members::next_hops;

impl Explainer<'_> {
    /// The next hops of the policy route that matches first.
    pub(super) fn policy_route(&mut self, ip: &Ip, source: IpAddr) -> Option<Target> {
        let policies = self.view.rib.policies();
        if policies.is_empty() {
            return None;
        }
        let found =
            policies.iter().find(|(key, _)| key.source.contains(&source) && key.destination.contains(&ip.destination));
        let asked = format!("{source} to {}", ip.destination);
        let Some((key, members)) = found else {
            self.add(Stage::Route, "policy route", asked, "none matches");
            return None;
        };
        let target = Target::Connections(Arc::clone(members));
        let text = format!("priority {}, {} to {} by {}", key.priority, key.source, key.destination, self.by(&target));
        let object = |next_hop: &String| Object::PolicyRoute { key: *key, next_hop: next_hop.clone() };
        let objects = next_hops(members).keys().map(object).collect();
        self.with(Stage::Route, "policy route", asked, text, objects);
        Some(target)
    }
}
