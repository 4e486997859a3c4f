//! A connection's IPsec settings combined with the rest of the configuration.

use std::net::IpAddr;

use super::{
    super::{
        address::SiteAddress,
        model::{Config, Connection},
    },
    Identity, Ipsec,
};

/// All parameters that hub and site must agree on.
#[derive(Debug, Clone)]
pub struct TunnelParameters<'c> {
    pub name: &'c str,
    pub connection: &'c Connection,
    pub ipsec: &'c Ipsec,
    /// Public address of the hub, if configured.
    pub hub: Option<IpAddr>,
    /// Where the site is.
    pub site: &'c SiteAddress,
    pub local_id: Identity,
    pub remote_id: Identity,
}

impl Config {
    /// The tunnel of a connection; `None` without IPsec.
    pub fn tunnel<'c>(&'c self, name: &str) -> Option<TunnelParameters<'c>> {
        let (name, connection) = self.connections.get_key_value(name)?;
        let ipsec = connection.ipsec.as_ref()?;
        let site = &self.customer_gateways.get(&connection.customer_gateway)?.address;
        let hub = self.gateway.address;
        Some(TunnelParameters {
            name,
            connection,
            ipsec,
            hub,
            site,
            // Validation ensures one of the two, for both.
            local_id: ipsec.local_id.clone().or(hub.map(Identity::from))?,
            remote_id: ipsec.remote_id.clone().or_else(|| Identity::of_site(site))?,
        })
    }

    /// The tunnels of all connections that have IPsec, by name.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelParameters<'_>> {
        self.connections.keys().filter_map(|name| self.tunnel(name))
    }
}
