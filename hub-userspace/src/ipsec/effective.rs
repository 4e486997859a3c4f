//! The effective selectors of a connection: the file's, or those of its SAs. Pure.
//!
//! Negotiation can narrow the file's selectors, never widen them: the check that the sites' prefixes do not conflict
//! uses the file.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    config::{
        ipsec::StartAction,
        model::{Config, Connection, SelectorSource},
    },
    ipsec::{
        vici::tunnels::Tunnels,
        xfrm::{
            self,
            table::{SaMatch, XfrmTable},
        },
    },
    kernel::netlink::HostState,
    policy::selectors::{NegotiatedSelectors, Pair},
};

/// Negotiated pairs of a connection, unless the file has more: a site may negotiate 65,025 with each child SA (255
/// traffic selectors of each side, RFC 7296 section 3.13).
pub const MOST_PAIRS: usize = 4096;

/// Maximum number of negotiated pairs of a connection.
pub fn most_pairs(connection: &Connection) -> usize {
    MOST_PAIRS.max(connection.remotes_at_hub().len() * connection.local_cidrs.len())
}

/// Sources of SA state.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The IKE daemon controlled by the agent.
    pub ike: &'a Tunnels,
    /// The kernel's policies and SAs, and the host's interfaces.
    pub xfrm: &'a xfrm::follow::Policies,
    pub host: &'a HostState,
}

/// The negotiated selectors of a connection; `None` while its SAs are not known. `before` is the previous result.
///
/// Until the IKE daemon has answered once, nothing is known and the file's selectors apply: a restarted agent finds
/// working tunnels. A daemon that is lost later does not change the negotiated selectors. The kernel continues to
/// decrypt with its SAs, and no one can report their end. So the last result remains until a daemon answers with its
/// SAs. Meanwhile the connection counts as down, and gets traffic only where no other connection can take it.
///
/// The kernel's policies count once they have been read. If a later read fails, the last result remains.
pub fn negotiated(
    config: &Config,
    name: &str,
    sources: Sources<'_>,
    before: Option<&NegotiatedSelectors>,
) -> Option<NegotiatedSelectors> {
    let Sources { ike, xfrm, host } = sources;
    let connection = config.connections.get(name)?;
    let most = most_pairs(connection);
    let mut negotiated = match connection.selectors {
        SelectorSource::File => return None,
        SelectorSource::Xfrm => {
            let pairs = xfrm.table.as_ref()?.pairs(&mark(config, connection, host)?);
            // The IKE daemon may wait for a packet to start negotiation.
            NegotiatedSelectors { pairs, on_demand: true, is_cut: false }
        }
        SelectorSource::Ike if !ike.heard => return None,
        SelectorSource::Ike if ike.unreachable.is_some() => before.cloned().unwrap_or_default(),
        SelectorSource::Ike => {
            let pairs = ike.tunnels.get(name).map(|tunnel| tunnel.pairs(most)).unwrap_or_default();
            let on_demand = connection.ipsec.as_ref().is_some_and(|ipsec| ipsec.start == StartAction::Trap);
            NegotiatedSelectors { pairs, on_demand, is_cut: false }
        }
    };
    negotiated.pairs = within(&negotiated.pairs, connection);
    if let Some(first) = first_above(most, &negotiated.pairs, connection) {
        drop(negotiated.pairs.split_off(&first));
        negotiated.is_cut = true;
    }
    Some(negotiated)
}

/// The first of these pairs with which there are more than so many at the hub: translations may split a pair.
fn first_above(most: usize, pairs: &BTreeSet<Pair>, connection: &Connection) -> Option<Pair> {
    if connection.translate.is_empty() {
        return pairs.iter().nth(most).copied();
    }
    let mut count = 0;
    let mut is_above = |pair: &&Pair| {
        count += connection.translate.prefixes_at_hub(pair.remote).len();
        count > most
    };
    pairs.iter().find(|pair| is_above(pair)).copied()
}

/// The match for the kernel's policies and SAs of a connection.
pub fn mark(config: &Config, connection: &Connection, host: &HostState) -> Option<SaMatch> {
    let configured = connection.ipsec.as_ref().and_then(|ipsec| ipsec.if_id);
    let if_id = configured.or_else(|| host.link(&connection.interface)?.if_id);
    let site = config.customer_gateways.get(&connection.customer_gateway)?.address.ip();
    Some(SaMatch { if_id, site })
}

/// Whether a connection whose SAs are managed externally has one; `None`: not known yet.
pub fn has_sa(config: &Config, connection: &Connection, host: &HostState, table: Option<&XfrmTable>) -> Option<bool> {
    Some(!table?.pairs(&mark(config, connection, host)?).is_empty())
}

/// The intersection of the pairs with the file's selectors.
fn within(pairs: &BTreeSet<Pair>, connection: &Connection) -> BTreeSet<Pair> {
    let Connection { remote_cidrs, local_cidrs, .. } = connection;
    let common = |prefix: IpNet, others: &[IpNet]| -> Vec<IpNet> {
        others.iter().filter_map(|other| intersection(prefix, *other)).collect()
    };
    let parts = pairs.iter().flat_map(|pair| {
        let locals = common(pair.local, local_cidrs);
        let remotes = common(pair.remote, remote_cidrs).into_iter();
        remotes.flat_map(move |remote| {
            locals.clone().into_iter().map(move |local| Pair { remote, local, limit: pair.limit })
        })
    });
    parts.collect()
}

fn intersection(one: IpNet, other: IpNet) -> Option<IpNet> {
    if one.contains(&other) { Some(other) } else { other.contains(&one).then_some(one) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ipsec::{
            vici::{event::ChildSa, selector::TrafficSelector, table::Tunnel},
            xfrm::{
                table::XfrmLists,
                wire::tests::{example_policy, example_sa},
            },
        },
        policy::selectors::Negotiated,
    };

    fn negotiated(config: &Config, ike: &Tunnels, before: &Negotiated) -> Negotiated {
        let (xfrm, host) = (&xfrm::follow::Policies::default(), &HostState::default());
        of_all(config, Sources { ike, xfrm, host }, before)
    }

    fn of_all(config: &Config, sources: Sources<'_>, before: &Negotiated) -> Negotiated {
        let of = |name: &String| Some((name.clone(), super::negotiated(config, name, sources, before.get(name))?));
        config.connections.keys().filter_map(of).collect()
    }

    /// Three connections: with IPsec, without, and with IPsec but the file's selectors.
    fn config(start: &str) -> Config {
        let connection = |name: &str, selectors: &str| {
            format!(
                "[connection.{name}]\ncustomer_gateway = \"site\"\ninterface = \"{name}0\"\n{selectors}\n\
                 local_cidrs = [\"192.168.0.0/16\"]\nremote_cidrs = [\"10.1.0.0/16\"]\n"
            )
        };
        let ipsec = |name: &str| {
            format!(
                "[connection.{name}.ipsec]\npsk_file = \"/nowhere/psk\"\nstart = \"{start}\"\nremote_id = \"{name}\"\n"
            )
        };
        let text = format!(
            "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\n[customer_gateway.site]\n\
             address = \"198.51.100.1\"\n{}{}{}{}{}",
            connection("a", ""),
            ipsec("a"),
            connection("b", "").replace("10.1.", "10.2."),
            connection("c", "selectors = \"file\"").replace("10.1.", "10.3."),
            ipsec("c"),
        );
        crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
    }

    /// Tunnel state with SAs of "a" and "c" for these selectors: remote and local.
    fn view(sas: &[(&str, &str)]) -> Tunnels {
        let selector = |text: &str| vec![TrafficSelector::parse(text).expect("a selector")];
        let child = |(remote, local): &(&str, &str)| ChildSa {
            id: 1,
            state: "INSTALLED".into(),
            local: selector(local),
            remote: selector(remote),
            ..ChildSa::default()
        };
        let tunnel = Arc::new(Tunnel { children: sas.iter().map(child).collect(), ..Tunnel::default() });
        let tunnels = [("a".to_owned(), Arc::clone(&tunnel)), ("c".to_owned(), tunnel)].into_iter().collect();
        Tunnels { tunnels, heard: true, ..Tunnels::default() }
    }

    fn shown(negotiated: &Negotiated) -> Vec<String> {
        let pairs =
            |agreed: &NegotiatedSelectors| agreed.pairs.iter().map(Pair::to_string).collect::<Vec<_>>().join(", ");
        negotiated.iter().map(|(name, agreed)| format!("{name}: {}", pairs(agreed))).collect()
    }

    #[test]
    fn negotiated_selectors_follow_known_sas() {
        let config = config("start");
        let none = Negotiated::new();
        let two = [("10.1.0.0/24[tcp/22]", "192.168.0.0/24"), ("10.1.1.0/24", "192.168.0.0/24")];
        let agreed = negotiated(&config, &view(&two), &none);
        assert_eq!(shown(&agreed), ["a: 10.1.0.0/24[tcp/22] === 192.168.0.0/24[tcp], 10.1.1.0/24 === 192.168.0.0/24"]);
        // A duplicate, as during rekeying, changes nothing.
        assert_eq!(negotiated(&config, &view(&[two[0], two[1], two[0]]), &agreed), agreed);
        assert_eq!(shown(&negotiated(&config, &view(&[]), &agreed)), ["a: "], "no SA: nothing");
    }

    #[test]
    fn lost_charon_keeps_negotiated_selectors() {
        let config = config("start");
        let lost = Tunnels { unreachable: Some("gone".into()), ..Tunnels::default() };
        assert!(negotiated(&config, &Tunnels::default(), &Negotiated::new()).is_empty());
        assert!(negotiated(&config, &lost, &Negotiated::new()).is_empty());
        let agreed = negotiated(&config, &view(&[("10.1.0.0/24", "192.168.0.0/24")]), &Negotiated::new());
        let lost = Tunnels { heard: true, ..lost };
        assert_eq!(negotiated(&config, &lost, &agreed), agreed);
        assert_eq!(shown(&negotiated(&config, &lost, &Negotiated::new())), ["a: "], "a connection that is new");
    }

    #[test]
    fn sa_selectors_are_narrowed_to_configured_ones() {
        let config = config("start");
        let agreed = |sas: &[(&str, &str)]| shown(&negotiated(&config, &view(sas), &Negotiated::new()));
        assert_eq!(agreed(&[("10.0.0.0/8", "0.0.0.0/0")]), ["a: 10.1.0.0/16 === 192.168.0.0/16"]);
        assert_eq!(agreed(&[("10.2.0.0/16", "192.168.0.0/24")]), ["a: "]);
    }

    #[test]
    fn pairs_beyond_the_limit_are_left_out() {
        let config = config("start");
        let selectors = |prefix: &str| -> Vec<TrafficSelector> {
            let text = |host| TrafficSelector::parse(&format!("{prefix}.{host}/32")).expect("a selector");
            (0..100).map(text).collect()
        };
        let child = ChildSa {
            id: 1,
            state: "INSTALLED".into(),
            local: selectors("192.168.0"),
            remote: selectors("10.1.0"),
            ..ChildSa::default()
        };
        let tunnel = Arc::new(Tunnel { children: vec![child], ..Tunnel::default() });
        let ike =
            Tunnels { tunnels: [("a".to_owned(), tunnel)].into_iter().collect(), heard: true, ..Tunnels::default() };
        let agreed = negotiated(&config, &ike, &Negotiated::new());
        assert_eq!((agreed["a"].pairs.len(), agreed["a"].is_cut), (MOST_PAIRS, true));
        // Those that are in force stay the same.
        assert_eq!(negotiated(&config, &ike, &agreed), agreed);
    }

    #[test]
    fn trap_connection_is_on_demand() {
        for (start, expected) in [("trap", true), ("start", false), ("none", false)] {
            let agreed = negotiated(&config(start), &view(&[]), &Negotiated::new());
            assert_eq!(agreed["a"].on_demand, expected, "{start}");
        }
    }

    #[test]
    fn xfrm_selectors_apply_after_first_kernel_dump() {
        let mut config = config("start");
        let connection = config.connections.get_mut("b").expect("it is there");
        connection.selectors = SelectorSource::Xfrm;
        connection.remote_cidrs = vec!["10.0.0.0/8".parse().expect("a prefix")];
        config.customer_gateways.get_mut("site").expect("it is there").address = "198.51.100.10".parse().expect("one");
        let (ike, host) = (&Tunnels::default(), &HostState::default());
        let with = |table: Option<XfrmTable>| {
            let xfrm = &xfrm::follow::Policies { table: table.map(Into::into), problem: None };
            let up = has_sa(&config, &config.connections["b"], host, xfrm.table.as_deref());
            (shown(&of_all(&config, Sources { ike, xfrm, host }, &Negotiated::new())), up)
        };
        assert_eq!(with(None), (vec![], None));
        let policies = vec![example_policy()];
        let none = XfrmLists { policies: policies.clone(), sas: vec![] }.into();
        assert_eq!(with(Some(none)), (vec!["b: ".to_owned()], Some(false)));
        let one = XfrmLists { policies, sas: vec![example_sa()] }.into();
        let pair = "b: 10.10.10.0/24[tcp/22] === 192.168.0.0/24[tcp]";
        assert_eq!(with(Some(one)), (vec![pair.to_owned()], Some(true)));
    }
}
