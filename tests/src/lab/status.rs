//! The output of `vpnhub status --output json`, by the names in its API.

use std::ops::Deref;

use serde_json::Value;

/// The name of the VPC side among the connections.
pub const VPC_SIDE: &str = "(vpc)";

/// A status: the JSON itself, with accessors.
#[derive(Debug, Clone, PartialEq)]
pub struct Status(pub Value);

impl Deref for Status {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl Status {
    /// A connection, a tunnel such as `shanghai/a`, or the [`VPC_SIDE`].
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn connection(&self, name: &str) -> &Value {
        if name == VPC_SIDE {
            return &self.0["vpc"];
        }
        let connections = self.0["connections"].as_array().into_iter().flatten();
        let mut all = connections.flat_map(|connection| {
            std::iter::once(connection).chain(connection["tunnels"].as_array().into_iter().flatten())
        });
        let found = all.find(|connection| connection["name"] == name);
        found.unwrap_or_else(|| panic!("there is no connection {name:?} in {:#}", self.0))
    }

    /// A counter of a connection, such as `rx_packets` or `drops/spoofed_source`.
    ///
    /// # Panics
    /// When there is no such number.
    pub fn counter(&self, connection: &str, path: &str) -> u64 {
        let value = self.connection(connection).pointer(&format!("/{path}")).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("{connection} has no number {path:?} in {:#}", self.0))
    }

    /// The growth of a connection's counter since an earlier status.
    ///
    /// # Panics
    /// When there is no such number.
    pub fn since(&self, earlier: &Self, connection: &str, path: &str) -> u64 {
        self.counter(connection, path) - earlier.counter(connection, path)
    }

    /// The share of the route to a destination through a connection, 0..=1.
    ///
    /// # Panics
    /// When there is no such route.
    pub fn share(&self, destination: &str, next_hop: &str) -> f64 {
        let mut routes = self.0["routes"].as_array().into_iter().flatten();
        let route = routes.find(|route| route["destination"] == destination && route["next_hop"] == next_hop);
        let share = route.and_then(|route| route["share"].as_f64());
        share.unwrap_or_else(|| panic!("no share of {destination} through {next_hop} in {:#}", self.0))
    }

    /// All reasons with a count above 0, drops and passes, by name.
    pub fn reasons(&self) -> Vec<(&str, u64)> {
        let objects = ["drops", "passes"].into_iter().filter_map(|kind| self.0[kind].as_object());
        let counts = objects.flatten().filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}
