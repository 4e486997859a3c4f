//! Relocates a draft's positions, when one text becomes a part of several.

use super::{
    diagnostic::Located,
    draft::{
        ConnectionDraft, CustomerGatewayDraft, DataplaneDraft, Draft, GatewayDraft, LearnDraft, MetricsDraft,
        RouteDraft, SegmentDraft, UnderlayDraft, VpcDraft,
    },
    health_check::HealthCheckDraft,
    ipsec::{EspDraft, IkeDraft, IpsecDraft},
    policy_routes::PolicyRouteDraft,
    section::List,
    translate::{TranslateDraft, TranslationDraft},
    tunnels::{TunnelDraft, TunnelIpsecDraft, TunnelsDraft},
};

/// A value that contains positions.
pub(super) trait Relocate {
    /// Maps each position with `to`.
    fn relocate(&mut self, to: &impl Fn(usize) -> usize);
}

impl Relocate for usize {
    fn relocate(&mut self, to: &impl Fn(usize) -> usize) {
        *self = to(*self);
    }
}

impl<T> Relocate for Located<T> {
    fn relocate(&mut self, to: &impl Fn(usize) -> usize) {
        self.at = to(self.at);
    }
}

impl<T: Relocate> Relocate for Option<T> {
    fn relocate(&mut self, to: &impl Fn(usize) -> usize) {
        if let Some(found) = self {
            found.relocate(to);
        }
    }
}

impl<T: Relocate> Relocate for Vec<T> {
    fn relocate(&mut self, to: &impl Fn(usize) -> usize) {
        for found in self {
            found.relocate(to);
        }
    }
}

impl<T> Relocate for List<T> {
    fn relocate(&mut self, to: &impl Fn(usize) -> usize) {
        self.items.relocate(to);
    }
}

/// Relocates the first list of fields; those of the second have no position.
macro_rules! relocate {
    ($($draft:ident { $($field:ident),* } but { $($other:ident),* })*) => {$(
        impl Relocate for $draft {
            fn relocate(&mut self, to: &impl Fn(usize) -> usize) {
                // No `..`: a new field must be added to one of the lists.
                let Self { $($field,)* $($other: _,)* } = self;
                $($field.relocate(to);)*
            }
        }
    )*};
}

relocate! {
    Draft { include, gateway, dataplane, metrics, learn, vpc, underlays, segments, customer_gateways, connections, routes, policy_routes } but {}
    GatewayDraft {
        name, max_connections, max_policy_routes, spoke_to_spoke, allow_default_route, address, vici_socket, services, role_at_boot
    } but { may_have_address }
    DataplaneDraft { lookup, lookup_memory, on_stop, mark } but {}
    MetricsDraft { listen } but {}
    LearnDraft { table, protocols, max_per_connection } but {}
    VpcDraft { at, interface, cidrs, publish_table } but {}
    UnderlayDraft { name, spread } but {}
    SegmentDraft { name, reaches } but {}
    CustomerGatewayDraft { name, address } but {}
    ConnectionDraft {
        name, customer_gateway, segment, enabled, interface, peer, local_cidrs, remote_cidrs, translate, health_check, up_delay,
        ipsec, selectors, reverse_path, mss_clamp, tunnels
    } but { of_tunnel }
    TunnelsDraft { items } but { is_present, sound }
    TunnelDraft { at, name, interface, weight, customer_gateway, peer, health_check, ipsec } but { number }
    TunnelIpsecDraft { at, if_id, start } but { has_if_id, local_id, remote_id }
    TranslateDraft { items } but { sound }
    TranslationDraft { site, hub } but { number }
    HealthCheckDraft { source, destinations, interval, retries, require, when_down } but { degraded, is_sound }
    RouteDraft { at, destination, next_hop, weight, publish } but { number }
    PolicyRouteDraft { at, source, destination, next_hop, priority, weight, publish } but { number }
    IpsecDraft {
        at, psk_file, certificate, private_key, ca, start, encap, if_id, create_interface, interface_mtu, dpd_delay,
        allow_weak, ike, esp
    } but { auth_sound, local_id, remote_id }
    IkeDraft { version, mode, proposals, lifetime } but {}
    EspDraft { proposals, lifetime, pfs, per_cpu_sas } but {}
}
