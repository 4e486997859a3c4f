//! IPsec of a connection: the parameters that hub and site agree on. [`Ipsec`] is the validated configuration.
//!
//! Names and syntax follow swanctl.conf where possible. `ike` and `esp` are the two parts that every device has, as do
//! the cloud's `IkeConfig` and `IpsecConfig`.

mod algorithm;
mod draft;
mod identity;
mod interface_mtu;
mod per_cpu;
mod proposal;
mod read;
mod responder;
mod rules;
pub mod secret;
mod tunnel;
mod validity;

use std::{path::PathBuf, time::Duration};

#[cfg(test)]
pub(super) use self::read::{ESP_KEYS, IKE_KEYS, KEYS};
pub use self::{
    algorithm::{ALGORITHMS, Algorithm, AlgorithmKind, group_number},
    identity::{Form, Identity},
    interface_mtu::InterfaceMtu,
    proposal::{Proposal, Protocol},
    tunnel::TunnelParameters,
    validity::{Invalid, invalid_certificate},
};
pub(super) use self::{
    draft::{EspDraft, IdentityDraft, IkeDraft, IpsecDraft},
    read::{STARTS, identity},
    rules::{Files, identities, validate},
};

/// Default proposals of a connection: the first is preferred, the second is for devices without AES-GCM.
pub const DEFAULT_IKE_PROPOSALS: [&str; 2] = ["aes256gcm16-prfsha384-ecp384", "aes256-sha384-ecp384"];
pub const DEFAULT_ESP_PROPOSALS: [&str; 2] = ["aes256gcm16-ecp384", "aes256-sha384-ecp384"];
/// Default ESP proposals without perfect forward secrecy.
const DEFAULT_ESP_PROPOSALS_WITHOUT_PFS: [&str; 2] = ["aes256gcm16", "aes256-sha384"];
pub const DEFAULT_IKE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
pub const DEFAULT_ESP_LIFETIME: Duration = Duration::from_secs(3600);
/// MTU of an xfrm interface: on a link with an MTU of 1500 it leaves room for ESP in UDP over IPv6, except with SHA-384
/// and SHA-512 (1390). It also suits most paths with a smaller MTU than the hub's link, which [`InterfaceMtu::Auto`] does
/// not know.
pub const DEFAULT_INTERFACE_MTU: InterfaceMtu = InterfaceMtu::Bytes(1400);
pub const DEFAULT_DPD_DELAY: Duration = Duration::from_secs(30);

/// Negotiation parameters of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipsec {
    pub auth: Auth,
    /// The hub's identity; `None`: its public address.
    pub local_id: Option<Identity>,
    /// The site's identity; `None`: the customer gateway's address or name.
    pub remote_id: Option<Identity>,
    pub start: StartAction,
    /// Forces UDP encapsulation of ESP even without NAT.
    pub encap: bool,
    /// `if_id` of the xfrm interface that the SAs are bound to; not 0.
    pub if_id: Option<u32>,
    /// The agent creates and removes that interface.
    pub create_interface: Option<XfrmInterface>,
    /// Idle time before dead peer detection probes the peer; zero turns it off. Whole seconds.
    pub dpd_delay: Duration,
    pub ike: IkeSettings,
    pub esp: Esp,
}

/// An xfrm interface that the agent creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfrmInterface {
    pub mtu: InterfaceMtu,
}

/// Authentication of the two ends. Holds file names only; each file is read on use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    Psk {
        file: PathBuf,
    },
    Certificate {
        certificate: PathBuf,
        private_key: PathBuf,
        /// CA that must have issued the site's certificate; `None`: any CA that the IKE daemon trusts.
        ca: Option<PathBuf>,
    },
}

/// Which side initiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAction {
    /// The hub, on the first packet to the site.
    Trap,
    /// The hub, at once, and again whenever the SA is lost.
    Start,
    /// The site.
    None,
}

/// The IKE SA, "phase 1".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSettings {
    pub version: IkeVersion,
    /// In order of preference; not empty.
    pub proposals: Vec<Proposal>,
    /// Whole seconds.
    pub lifetime: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeVersion {
    V1(IkeV1Mode),
    V2,
}

/// How `IKEv1` negotiates phase 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeV1Mode {
    Main,
    Aggressive,
}

/// The ESP SAs, "phase 2".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// In order of preference; not empty. With perfect forward secrecy all have a group, without it none.
    pub proposals: Vec<Proposal>,
    /// Whole seconds.
    pub lifetime: Duration,
    /// An SA for each CPU (RFC 9611).
    pub per_cpu_sas: bool,
}

impl Ipsec {
    /// Perfect forward secrecy: whether each rekeying negotiates new key material.
    pub fn has_pfs(&self) -> bool {
        self.esp.proposals.iter().all(|proposal| proposal.group.is_some())
    }

    /// Whether any setting needs `allow_weak`.
    pub fn is_weak(&self) -> bool {
        let mut proposals = self.ike.proposals.iter().chain(&self.esp.proposals);
        !self.has_pfs()
            || matches!(self.ike.version, IkeVersion::V1(_))
            || proposals.any(|proposal| proposal.weaknesses().next().is_some())
    }
}

impl StartAction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Start => "start",
            Self::None => "none",
        }
    }
}

impl IkeVersion {
    /// 1 or 2.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1(_) => 1,
            Self::V2 => 2,
        }
    }
}
