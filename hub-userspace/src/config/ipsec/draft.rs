//! IPsec of a connection, as far as it could be read.

use std::{path::PathBuf, time::Duration};

use super::{
    super::{diagnostic::Located, section::List},
    Auth, Esp, Identity, IkeSettings, IkeV1Mode, IkeVersion, InterfaceMtu, Ipsec, Proposal, StartAction, XfrmInterface,
};

#[derive(Debug, Clone)]
pub struct IpsecDraft {
    /// Offset of the header.
    pub at: usize,
    pub psk_file: Option<Located<PathBuf>>,
    pub certificate: Option<Located<PathBuf>>,
    pub private_key: Option<Located<PathBuf>>,
    pub ca: Option<Located<PathBuf>>,
    /// Exactly one authentication method was read, completely.
    pub auth_sound: bool,
    pub local_id: IdentityDraft,
    pub remote_id: IdentityDraft,
    /// `None`: the default.
    pub start: Option<Located<StartAction>>,
    pub encap: Option<Located<bool>>,
    pub if_id: Option<Located<u32>>,
    pub create_interface: Option<Located<bool>>,
    pub interface_mtu: Option<Located<InterfaceMtu>>,
    pub dpd_delay: Option<Located<Duration>>,
    pub allow_weak: Option<Located<bool>>,
    pub ike: Option<IkeDraft>,
    pub esp: Option<EspDraft>,
}

/// An identity in the file.
#[derive(Debug, Clone)]
pub enum IdentityDraft {
    Absent,
    Wrong,
    Read(Identity),
}

#[derive(Debug, Clone)]
pub struct IkeDraft {
    pub version: Option<Located<u32>>,
    pub mode: Option<Located<IkeV1Mode>>,
    pub proposals: List<Proposal>,
    pub lifetime: Option<Located<Duration>>,
}

#[derive(Debug, Clone)]
pub struct EspDraft {
    pub proposals: List<Proposal>,
    pub lifetime: Option<Located<Duration>>,
    pub pfs: Option<Located<bool>>,
    pub per_cpu_sas: Option<Located<bool>>,
}

impl IpsecDraft {
    /// Whether the file has the site's identity.
    pub(in crate::config) const fn has_remote_id(&self) -> bool {
        !matches!(self.remote_id, IdentityDraft::Absent)
    }

    /// `start` is the default.
    pub(in crate::config) fn finish(self, start: StartAction) -> Option<Ipsec> {
        if !self.auth_sound {
            return None;
        }
        let auth = match (self.psk_file, self.certificate, self.private_key) {
            (Some(file), None, None) => Auth::Psk { file: file.value },
            (None, Some(certificate), Some(private_key)) => Auth::Certificate {
                certificate: certificate.value,
                private_key: private_key.value,
                ca: self.ca.map(|ca| ca.value),
            },
            _ => return None,
        };
        Some(Ipsec {
            auth,
            local_id: self.local_id.finish().ok()?,
            remote_id: self.remote_id.finish().ok()?,
            start: self.start.map_or(start, |start| start.value),
            encap: self.encap?.value,
            if_id: self.if_id.map(|id| id.value),
            create_interface: match self.create_interface?.value {
                true => Some(XfrmInterface { mtu: self.interface_mtu?.value }),
                false => None,
            },
            dpd_delay: self.dpd_delay?.value,
            ike: self.ike?.finish()?,
            esp: self.esp?.finish()?,
        })
    }
}

/// The identity is present but invalid.
#[derive(Debug, Clone)]
pub struct WrongIdentity;

impl IdentityDraft {
    fn finish(self) -> Result<Option<Identity>, WrongIdentity> {
        match self {
            Self::Absent => Ok(None),
            Self::Wrong => Err(WrongIdentity),
            Self::Read(identity) => Ok(Some(identity)),
        }
    }

    /// The identity; if absent, the default.
    pub fn or(&self, default: impl FnOnce() -> Option<Identity>) -> Option<Identity> {
        match self {
            Self::Absent => default(),
            Self::Wrong => None,
            Self::Read(identity) => Some(identity.clone()),
        }
    }
}

impl IkeDraft {
    fn finish(self) -> Option<IkeSettings> {
        let version = match self.version?.value {
            1 => IkeVersion::V1(self.mode.map_or(IkeV1Mode::Main, |mode| mode.value)),
            _ => IkeVersion::V2,
        };
        Some(IkeSettings { version, proposals: self.proposals.finish()?, lifetime: self.lifetime?.value })
    }
}

impl EspDraft {
    fn finish(self) -> Option<Esp> {
        Some(Esp {
            proposals: self.proposals.finish()?,
            lifetime: self.lifetime?.value,
            per_cpu_sas: self.per_cpu_sas?.value,
        })
    }
}
