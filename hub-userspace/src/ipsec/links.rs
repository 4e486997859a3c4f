//! The xfrm interfaces of a configuration.

use crate::{
    config::Config,
    kernel::netlink::{XfrmLink, XfrmLinks},
};

/// The xfrm interfaces that the agent must create. If several connections share one, the smallest MTU applies.
pub fn xfrm_links(config: &Config) -> XfrmLinks {
    let mut links = XfrmLinks::new();
    for connection in config.connections.values() {
        let Some(ipsec) = &connection.ipsec else { continue };
        if let (Some(made), Some(if_id)) = (ipsec.create_interface, ipsec.if_id) {
            let link = links.entry(connection.interface.clone()).or_insert(XfrmLink { if_id, mtu: made.mtu });
            link.mtu = link.mtu.min(made.mtu);
        }
    }
    links
}
