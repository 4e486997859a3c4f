//! Objects that charon loads.

use std::{fmt, path::PathBuf};

/// An object that charon loads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loaded {
    Key(PathBuf),
    Authority(PathBuf),
    /// By charon's name.
    Secret(String),
    Connection(String),
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(file) => write!(f, "the private key {}", file.display()),
            Self::Authority(file) => write!(f, "the CA certificate {}", file.display()),
            Self::Secret(_) => write!(f, "the pre-shared key"),
            Self::Connection(_) => write!(f, "the connection"),
        }
    }
}

impl Loaded {
    /// What an operator can do if charon refuses it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Key(_) => {
                "give it an unencrypted private key in PEM form, as `openssl genpkey` writes it, and run `vpnhub reload`"
            }
            Self::Authority(_) => "give it the certificate of a CA in PEM form, and run `vpnhub reload`",
            Self::Secret(_) => "give psk_file another secret, and run `vpnhub reload`",
            Self::Connection(_) => {
                "check that its certificate is one, and that strongSwan has the plugins for its proposals (`swanctl \
                 --list-algs`); then run `vpnhub reload`"
            }
        }
    }
}
