//! The outside of a tunnel, in a status.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ipsec::vici::event::Outside;

/// The ESP packets of an SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OutsideStatus {
    /// The hub's address, and the site's; `None` if unknown.
    #[schemars(with = "Option<String>")]
    pub local: Option<IpAddr>,
    #[schemars(with = "Option<String>")]
    pub remote: Option<IpAddr>,
    /// ESP is in UDP, because of NAT or `encap`.
    pub in_udp: bool,
    /// strongSwan's names of the algorithms, such as `AES_GCM_16` and `HMAC_SHA2_256_128`. An AEAD has no integrity
    /// algorithm.
    pub encryption: Option<String>,
    pub integrity: Option<String>,
}

impl From<&Outside> for OutsideStatus {
    fn from(Outside { local, remote, is_in_udp, encryption, integrity }: &Outside) -> Self {
        Self {
            local: *local,
            remote: *remote,
            in_udp: *is_in_udp,
            encryption: encryption.clone(),
            integrity: integrity.clone(),
        }
    }
}
