//! Causes of failed tunnels, parsed from charon's log, with an explanation for the operator.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::SiteAddress;

/// A cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The site rejects the hub's authentication, usually because the secrets differ.
    Refused,
    /// The hub detects that the secrets differ.
    WrongSecret,
    NoSecret,
    Identity,
    Certificate,
    /// A certificate is expired or not yet valid.
    Validity,
    /// The hub has no private key for its identity.
    NoKey,
    /// `IKEv1`: the site does not answer the first encrypted message.
    Undecrypted,
    IkeProposal,
    EspProposal,
    Selectors,
    Silent,
    /// The site's DNS name has no address.
    Unresolved,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => {
                "the site refuses the hub's secret, certificate or identity: compare psk_file or certificate, local_id and \
                 remote_id with the site's"
            }
            Self::WrongSecret => "wrong secret: hub and site have different secrets",
            Self::NoSecret => "there is no secret for the site's identity: compare remote_id with the site's",
            Self::Identity => "the site has another identity: compare remote_id with the site's",
            Self::Certificate => {
                "the site's certificate is not from a CA that the hub trusts, or not for the site's identity: compare \
                 ca and remote_id with it"
            }
            Self::Validity => {
                "a certificate of the site, or of its CA, is expired or not yet valid: renew it, and compare the clocks of \
                 hub and site"
            }
            Self::NoKey => {
                "the hub has no private key for its certificate: check that private_key belongs to certificate, and that \
                 local_id is in it"
            }
            Self::Undecrypted => {
                "the site does not answer the first encrypted message, usually because hub and site have different secrets: \
                 compare psk_file with the site's"
            }
            Self::IkeProposal => "no IKE proposal in common, or the site has no connection to the hub: compare ike.proposals and version",
            Self::EspProposal => "no ESP proposal in common: compare esp.proposals with the site's",
            Self::Selectors => {
                "selectors not accepted: compare local_cidrs and remote_cidrs with the site's remote and local ones"
            }
            Self::Silent => "the site does not answer: check its address, and that UDP 500 and 4500 pass in both \
                directions",
            Self::Unresolved => "the site's name cannot be resolved: check the customer gateway's address, and the hub's DNS",
        })
    }
}

/// Prefixes of charon's log lines (libcharon 5.9 to 6.0), with their cause.
const LINES: &[(&str, Fault)] = &[
    ("received AUTHENTICATION_FAILED", Fault::Refused),
    ("received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built", Fault::EspProposal),
    ("received NO_PROPOSAL_CHOSEN", Fault::IkeProposal),
    ("received proposals unacceptable", Fault::IkeProposal),
    ("received proposals inacceptable", Fault::IkeProposal),
    ("no acceptable proposal found", Fault::EspProposal),
    ("received TS_UNACCEPTABLE", Fault::Selectors),
    ("no matching CHILD_SA config found", Fault::Selectors),
    ("giving up after ", Fault::Silent),
    ("peer not responding, trying again", Fault::Silent),
    ("establishing IKE_SA failed, peer not responding", Fault::Silent),
    ("no shared key found for", Fault::NoSecret),
    ("no matching peer config found", Fault::Identity),
    ("constraint check failed: identity", Fault::Identity),
    ("constraint check failed: peer not authenticated by CA", Fault::Certificate),
    ("IDir '", Fault::Identity),
    ("no private key found for ", Fault::NoKey),
    ("no trusted ", Fault::Certificate),
    ("no issuer certificate found", Fault::Certificate),
    ("no peer config found", Fault::Identity),
    ("unable to resolve ", Fault::Unresolved),
];

impl Fault {
    /// A stable name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::WrongSecret => "wrong_secret",
            Self::NoSecret => "no_secret",
            Self::Identity => "identity",
            Self::Certificate => "certificate",
            Self::Validity => "certificate_validity",
            Self::NoKey => "no_private_key",
            Self::Undecrypted => "undecrypted",
            Self::IkeProposal => "ike_proposal",
            Self::EspProposal => "esp_proposal",
            Self::Selectors => "selectors",
            Self::Silent => "silent",
            Self::Unresolved => "unresolved",
        }
    }

    /// The error code that the cloud product's diagnosis (`DiagnoseVpnConnections`) has for the same cause, if any.
    ///
    /// charon's log does not tell which algorithm of a proposal differs, so the codes of single algorithms, such as
    /// `DhGroupMismatch`, never apply.
    pub const fn cloud_code(self) -> Option<&'static str> {
        match self {
            Self::Identity => Some("PeerMismatch"),
            Self::IkeProposal | Self::EspProposal => Some("AlgorithmMismatch"),
            _ => None,
        }
    }

    /// The cause in a line of charon's log about an IKE SA, if any.
    pub fn of_line(line: &str) -> Option<Self> {
        if line.starts_with("tried ") && line.ends_with("MAC mismatched") {
            return Some(Self::WrongSecret);
        }
        // An IKEv1 message that decrypts to nonsense: the key depends on the pre-shared key.
        if line.starts_with("invalid ") && line.ends_with(" payload length, decryption failed?") {
            return Some(Self::WrongSecret);
        }
        // The third message of main mode is the first encrypted one.
        if line.starts_with("sending retransmit ") && line.ends_with(", seq 3") {
            return Some(Self::Undecrypted);
        }
        if line.starts_with("traffic selectors ") && line.contains(" unacceptable") {
            return Some(Self::Selectors);
        }
        // Of the subject, or of an issuer.
        if line.contains(" certificate invalid (valid from ") {
            return Some(Self::Validity);
        }
        LINES.iter().find(|(start, _)| line.starts_with(start)).map(|(_, fault)| *fault)
    }

    /// The operator's message, with the site's name where that is the cause.
    pub fn sentence(self, site: &SiteAddress) -> String {
        match (self, site) {
            (Self::Unresolved, SiteAddress::Name(name)) => {
                format!("the name {name} cannot be resolved: check the customer gateway's address, and the hub's DNS")
            }
            _ => self.to_string(),
        }
    }

    /// Whether `self` adds information: the site's refusal follows from the hub's own result.
    pub fn is_news_after(self, known: Option<Self>) -> bool {
        match (known, self) {
            (Some(Self::WrongSecret | Self::NoKey), Self::Refused)
            | (Some(Self::WrongSecret), Self::Undecrypted)
            | (Some(Self::WrongSecret | Self::Undecrypted), Self::Silent)
            | (Some(Self::Validity), Self::Certificate | Self::Refused) => false,
            (known, fault) => known != Some(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// charon repeats all of these with each attempt.
    #[test]
    fn consequence_of_known_fault_is_no_news() {
        for (known, consequence) in [
            (Fault::WrongSecret, Fault::Refused),
            (Fault::WrongSecret, Fault::Undecrypted),
            (Fault::WrongSecret, Fault::Silent),
            (Fault::Undecrypted, Fault::Silent),
            (Fault::Validity, Fault::Certificate),
            (Fault::NoKey, Fault::Refused),
        ] {
            assert!(!consequence.is_news_after(Some(known)), "{consequence:?} after {known:?}");
            assert!(known.is_news_after(Some(consequence)), "{known:?} after {consequence:?}");
        }
    }

    #[test]
    fn unresolvable_name_is_part_of_the_message() {
        let sentence = |site: &str| Fault::Unresolved.sentence(&site.parse().expect("an address"));
        assert!(sentence("site.example.net").starts_with("the name site.example.net cannot be resolved: check"));
        assert_eq!(sentence("198.51.100.10"), Fault::Unresolved.to_string());
        let of_another = Fault::Silent.sentence(&SiteAddress::Name("site.example.net".into()));
        assert_eq!(of_another, Fault::Silent.to_string());
    }

    #[test]
    fn charon_log_line_becomes_operator_message() {
        // Recorded from strongSwan 5.9.8.
        for (line, start) in [
            ("received AUTHENTICATION_FAILED notify error", "the site refuses the hub's secret"),
            ("tried 1 shared key for '203.0.113.1' - '203.0.113.10', but MAC mismatched", "wrong secret"),
            ("no shared key found for '203.0.113.1' - '203.0.113.99'", "there is no secret"),
            ("no matching peer config found", "the site has another identity"),
            ("no trusted ECDSA public key found for 'O=Example, CN=Ningbo'", "the site's certificate is not from a CA"),
            (
                "constraint check failed: peer not authenticated by CA 'O=Example, CN=Authority'",
                "the site's certificate is not from a CA",
            ),
            (
                "subject certificate invalid (valid from Jan 01 00:00:00 2020 to Jan 02 00:00:00 2020)",
                "a certificate of the site, or of its CA, is expired",
            ),
            ("no private key found for 'hub.example.com'", "the hub has no private key"),
            ("invalid ID_V1 payload length, decryption failed?", "wrong secret"),
            ("sending retransmit 1 of request message ID 0, seq 3", "the site does not answer the first encrypted"),
            ("received NO_PROPOSAL_CHOSEN notify error", "no IKE proposal in common"),
            ("received proposals unacceptable", "no IKE proposal in common"),
            ("received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built", "no ESP proposal in common"),
            ("no acceptable proposal found", "no ESP proposal in common"),
            ("received TS_UNACCEPTABLE notify, no CHILD_SA built", "selectors not accepted"),
            ("traffic selectors 192.168.0.0/24 === 10.99.0.0/24 unacceptable", "selectors not accepted"),
            ("no peer config found", "the site has another identity"),
            ("unable to resolve site.example.net, initiate aborted", "the site's name cannot be resolved"),
            ("giving up after 2 retransmits", "the site does not answer"),
            ("establishing IKE_SA failed, peer not responding", "the site does not answer"),
        ] {
            let fault = Fault::of_line(line).expect(line);
            assert!(fault.to_string().starts_with(start), "{line}: {fault}");
        }
        for line in [
            "IKE_SA vpnhub-shanghai[1] established between 203.0.113.1[203.0.113.1]...203.0.113.10[203.0.113.10]",
            "received DELETE for ESP CHILD_SA with SPI 7c5f8f7f",
            "selected proposal: ESP:AES_GCM_16_256/NO_EXT_SEQ",
            "retransmit 1 of request with message ID 0",
            "sending retransmit 1 of request message ID 0, seq 1",
            "failed to establish CHILD_SA, keeping IKE_SA",
            "",
        ] {
            assert_eq!(Fault::of_line(line), None, "{line}");
        }
    }
}
