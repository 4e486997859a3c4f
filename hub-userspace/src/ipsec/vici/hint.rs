//! Lines of charon's log about peers whose connection is not known, or not yet.

use std::net::IpAddr;

use super::{fault::Fault, message::Message};

/// charon's name of an IKE SA without a connection.
const UNNAMED: &str = "(unnamed)";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// This address begins an IKE SA, by charon's number.
    Begun { ike: u64, site: IpAddr },
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
        if message.value("ikesa-name").is_some_and(|name| name != UNNAMED) {
            return None;
        }
        Some(Self::Failed { ike: ike()?, fault: Fault::of_line(line)? })
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
            (unnamed, "no IKE config found for nonsense", None),
            (unnamed, "nobody is initiating an IKE_SA", None),
            (unnamed, "sending packet: from 203.0.113.1[500] to 198.51.100.10[500]", None),
        ] {
            assert_eq!(of(name, line), expected, "{line}");
        }
    }
}
