//! IPsec of a connection: what the hub and the site's device agree on. [`Ipsec`] is what a valid file says.
//!
//! Names and forms are those of swanctl.conf where it has them; `ike` and `esp` are the two parts that every device and
//! the cloud's `IkeConfig` and `IpsecConfig` know.

mod algorithm;
mod draft;
mod identity;
mod proposal;
mod read;
mod rules;
pub mod secret;
mod tunnel;

use std::{path::PathBuf, time::Duration};

pub use self::{
    algorithm::{Algorithm, AlgorithmKind, group_number},
    identity::{Form, Identity},
    proposal::{Proposal, Protocol},
    tunnel::TunnelParameters,
};
pub(super) use self::{
    draft::{EspDraft, IkeDraft, IpsecDraft},
    rules::{Files, validate},
};

/// Proposals of a connection that names none: the first is what is wanted, the second for devices without AES-GCM.
pub const DEFAULT_IKE_PROPOSALS: [&str; 2] = ["aes256gcm16-prfsha384-ecp384", "aes256-sha384-ecp384"];
pub const DEFAULT_ESP_PROPOSALS: [&str; 2] = ["aes256gcm16-ecp384", "aes256-sha384-ecp384"];
/// As above, where perfect forward secrecy is switched off.
const DEFAULT_ESP_PROPOSALS_WITHOUT_PFS: [&str; 2] = ["aes256gcm16", "aes256-sha384"];
pub const DEFAULT_IKE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
pub const DEFAULT_ESP_LIFETIME: Duration = Duration::from_secs(3600);
/// Of an xfrm interface: leaves room for ESP in UDP, in IPv6, on a link of 1500.
pub const DEFAULT_INTERFACE_MTU: u32 = 1400;
pub const DEFAULT_DPD_DELAY: Duration = Duration::from_secs(30);

/// How a connection's SAs come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipsec {
    pub auth: Auth,
    /// Of the hub; `None`: its public address.
    pub local_id: Option<Identity>,
    /// Of the site; `None`: the customer gateway's address.
    pub remote_id: Option<Identity>,
    pub start: StartAction,
    /// UDP around ESP even where no NAT is found.
    pub encap: bool,
    /// Of the xfrm interface that the SAs belong to; not 0.
    pub if_id: Option<u32>,
    /// The agent makes that interface, and removes it.
    pub create_interface: Option<XfrmInterface>,
    /// Silence after which the peer is asked whether it lives; zero: it is not asked. Whole seconds.
    pub dpd_delay: Duration,
    pub ike: IkeSettings,
    pub esp: Esp,
}

/// An xfrm interface that the agent makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfrmInterface {
    /// Bytes.
    pub mtu: u32,
}

/// How the two ends prove who they are. Files only: what is in them is read where it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    Psk {
        file: PathBuf,
    },
    Certificate {
        certificate: PathBuf,
        private_key: PathBuf,
        /// Whom the site's certificate must be from; `None`: any CA that the IKE daemon knows.
        ca: Option<PathBuf>,
    },
}

/// Who begins to negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAction {
    /// The hub, with the first packet to the site.
    Trap,
    /// The hub, at once, and again whenever the SA goes.
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
    /// In order of preference; not empty. All with a group, or without perfect forward secrecy none.
    pub proposals: Vec<Proposal>,
    /// Whole seconds.
    pub lifetime: Duration,
}

impl Ipsec {
    /// Whether each rekeying agrees on new key material.
    pub fn has_pfs(&self) -> bool {
        self.esp.proposals.iter().all(|proposal| proposal.group.is_some())
    }

    /// Whether something in it needs `allow_weak`.
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
