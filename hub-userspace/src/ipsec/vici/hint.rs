//! Lines of charon's log about peers whose connection is not known, or not yet.

use std::net::IpAddr;

use super::{fault::Fault, message::Message};
use crate::config::{SiteAddress, ipsec::Identity};

/// charon's name of an IKE SA without a connection.
const UNNAMED: &str = "(unnamed)";
/// Characters of an identity that are remembered: anyone can send one. Configured ones are not longer.
const LONGEST_IDENTITY: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This address begins an IKE SA, by charon's number.
    Begun { ike: u64, site: IpAddr },
    /// The peer presents this identity.
    Presented { ike: u64, identity: String },
    /// An IKE SA failed before charon knew its connection.
    Failed { ike: u64, fault: Fault },
    /// No connection has this address.
    Stranger(IpAddr),
}

impl Hint {
    /// Of a `log` event's message.
    pub fn of(message: &Message) -> Option<Self> {
        let line = message.value("msg")?;
        if let Some(addresses) = line.strip_prefix("no IKE config found for ") {
            let (_, site) = addresses.split_once("...")?;
            return Some(Self::Stranger(site.split(',').next()?.parse().ok()?));
        }
        let ike = || message.value("ikesa-uniqueid")?.parse().ok();
        // Such as "198.51.100.1 is initiating an IKE_SA", or "a Main Mode IKE_SA".
        if let Some((site, what)) = line.split_once(" is initiating a")
            && what.ends_with(" IKE_SA")
        {
            return Some(Self::Begun { ike: ike()?, site: site.parse().ok()? });
        }
        if let Some(identity) = presented(line) {
            let identity = identity.chars().take(LONGEST_IDENTITY).collect();
            return Some(Self::Presented { ike: ike()?, identity });
        }
        if message.value("ikesa-name").is_some_and(|name| name != UNNAMED) {
            return None;
        }
        Some(Self::Failed { ike: ike()?, fault: Fault::of_line(line)? })
    }
}

/// The peer's identity in a line such as "looking for peer configs matching 203.0.113.1[hub]...198.51.100.1[site]", or
/// "looking for pre-shared key peer configs matching 203.0.113.1...198.51.100.1[site]".
fn presented(line: &str) -> Option<&str> {
    let (_, ends) = line.strip_prefix("looking for ")?.split_once("peer configs matching ")?;
    let (_, site) = ends.split_once("...")?;
    let (_, identity) = site.split_once('[')?;
    identity.strip_suffix(']')
}

/// A peer that has tried to connect and has no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    pub address: IpAddr,
    pub identity: Option<String>,
    /// `None`: no connection has the address.
    pub fault: Option<Fault>,
}

impl Stranger {
    /// A sentence for a connection to this site that is not up, if the peer may be the site.
    pub fn hint(&self, site: &SiteAddress, remote_id: &Identity) -> Option<String> {
        let Self { address, identity, fault } = self;
        let is_same = identity.as_ref().is_some_and(|identity| *identity == remote_id.to_string());
        let is_it = fault.is_none() || *fault == Some(Fault::Identity) && is_same;
        match (site, fault, identity) {
            (SiteAddress::Ip(_), ..) if is_it => Some(format!(
                "{address}, which no customer gateway has, has tried to connect: if it is this site, replace {site} by it"
            )),
            (SiteAddress::Name(_), ..) if is_it => Some(format!(
                "{address}, which no customer gateway has, has tried to connect: if it is this site, let {site} resolve to it"
            )),
            (SiteAddress::Ip(_), ..) | (_, None, _) => None,
            (_, Some(Fault::Identity), Some(identity)) => Some(format!(
                "{address} has tried to connect with the identity {identity:?}: if it is this site, compare remote_id with it"
            )),
            (_, Some(fault), _) => Some(format!("{address} has tried to connect: {fault}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: Option<&str>, line: &str) -> Option<Hint> {
        let mut message = Message::default().with("group", "IKE").with("ikesa-uniqueid", "7");
        if let Some(name) = name {
            message = message.with("ikesa-name", name);
        }
        Hint::of(&message.with("msg", line))
    }

    #[test]
    fn lines_about_unknown_peers_name_their_address_or_their_ike_sa() {
        let site: IpAddr = "198.51.100.10".parse().expect("an address");
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        let unnamed = Some("(unnamed)");
        for (name, line, expected) in [
            (unnamed, "198.51.100.10 is initiating an IKE_SA", Some(Hint::Begun { ike: 7, site })),
            (None, "198.51.100.10 is initiating a Main Mode IKE_SA", Some(Hint::Begun { ike: 7, site })),
            (unnamed, "no matching peer config found", Some(Hint::Failed { ike: 7, fault: Fault::Identity })),
            (None, "received proposals unacceptable", Some(Hint::Failed { ike: 7, fault: Fault::IkeProposal })),
            (Some("vpnhub-a"), "no matching peer config found", None),
            (
                unnamed,
                "no IKE config found for 203.0.113.1...198.51.100.10, sending NO_PROPOSAL_CHOSEN",
                Some(Hint::Stranger(site)),
            ),
            (
                None,
                "no IKE config found for 2001:db8::2...2001:db8::1, sending NO_PROPOSAL_CHOSEN",
                Some(Hint::Stranger(v6)),
            ),
            (
                unnamed,
                "looking for peer configs matching 203.0.113.1[hub]...198.51.100.10[C=CN, CN=site]",
                Some(Hint::Presented { ike: 7, identity: "C=CN, CN=site".into() }),
            ),
            (
                None,
                "looking for pre-shared key peer configs matching 203.0.113.1...2001:db8::1[site.example.net]",
                Some(Hint::Presented { ike: 7, identity: "site.example.net".into() }),
            ),
            (unnamed, "looking for peer configs matching nonsense", None),
            (unnamed, "no IKE config found for nonsense", None),
            (unnamed, "nobody is initiating an IKE_SA", None),
            (unnamed, "sending packet: from 203.0.113.1[500] to 198.51.100.10[500]", None),
        ] {
            assert_eq!(of(name, line), expected, "{line}");
        }
    }

    #[test]
    fn stranger_is_a_hint_for_the_connections_that_it_may_belong_to() {
        let stranger = |identity: Option<&str>, fault| Stranger {
            address: IpAddr::from([198, 51, 100, 7]),
            identity: identity.map(str::to_owned),
            fault,
        };
        let unknown = stranger(None, None);
        let (same, other) = (stranger(Some("site"), Some(Fault::Identity)), stranger(Some("x"), Some(Fault::Identity)));
        let proposal = stranger(None, Some(Fault::IkeProposal));
        for (peer, site, expected) in [
            (&unknown, "198.51.100.1", Some("if it is this site, replace 198.51.100.1 by it")),
            (&unknown, "site.example.net", Some("if it is this site, let site.example.net resolve to it")),
            (&unknown, "any", None),
            (&same, "198.51.100.1", Some("if it is this site, replace 198.51.100.1 by it")),
            (&same, "site.example.net", Some("if it is this site, let site.example.net resolve to it")),
            (&other, "198.51.100.1", None),
            (&other, "site.example.net", Some("with the identity \"x\": if it is this site, compare")),
            (&other, "any", Some("with the identity \"x\": if it is this site, compare remote_id with it")),
            (&proposal, "198.51.100.1", None),
            (&proposal, "any", Some("has tried to connect: no IKE proposal in common")),
        ] {
            let id = Identity::of_site(&SiteAddress::Name("site".into())).expect("a name");
            let hint = peer.hint(&site.parse().expect("an address"), &id);
            let is_it = match (&hint, expected) {
                (Some(hint), Some(expected)) => hint.starts_with("198.51.100.7") && hint.contains(expected),
                (hint, expected) => hint.is_none() && expected.is_none(),
            };
            assert!(is_it, "{peer:?} for {site}: {hint:?}");
        }
    }
}
