//! Proposals, such as `aes256gcm16-prfsha384-ecp384`: one algorithm of each kind.

use std::fmt;

use super::{
    super::{
        diagnostic::{Problem, quoted},
        suggest::nearest,
    },
    algorithm::{ALGORITHMS, Algorithm, AlgorithmKind, find},
};

/// Protocol of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Ike,
    Esp,
}

/// Algorithms to use together. Displays in strongSwan's syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proposal {
    pub encryption: &'static Algorithm,
    /// `None` with an AEAD.
    pub integrity: Option<&'static Algorithm>,
    /// For IKE only: with an AEAD, or if it differs from the integrity algorithm's.
    pub prf: Option<&'static Algorithm>,
    /// Always with IKE; with ESP for perfect forward secrecy.
    pub group: Option<&'static Algorithm>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encryption.name)?;
        self.others().try_for_each(|algorithm| write!(f, "-{algorithm}"))
    }
}

impl Proposal {
    /// Parses and validates `text`.
    pub(in crate::config) fn of(text: &str, protocol: Protocol) -> Result<Self, Problem> {
        let mut found: [Option<&'static Algorithm>; 4] = [None; 4];
        for word in text.split('-') {
            let algorithm = find(word).ok_or_else(|| unknown(text, word))?;
            let slot = match algorithm.kind {
                AlgorithmKind::Cipher | AlgorithmKind::Aead => 0,
                AlgorithmKind::Integrity => 1,
                AlgorithmKind::Prf => 2,
                AlgorithmKind::Group => 3,
            };
            if let Some(other) = found[slot].replace(algorithm) {
                let problem = Problem::new(format!("{} has both {other} and {algorithm}", quoted(text)));
                return Err(problem.help("write a proposal for each"));
            }
        }
        let [encryption, integrity, prf, group] = found;
        let Some(encryption) = encryption else {
            return Err(Problem::new(format!("{} does not encrypt", quoted(text)))
                .help(format!("begin it with an encryption algorithm: \"{}\"", protocol.example())));
        };
        let proposal = Self { encryption, integrity, prf, group };
        proposal.check(text, protocol).map(|()| proposal)
    }

    fn check(&self, text: &str, protocol: Protocol) -> Result<(), Problem> {
        let Self { encryption, integrity, prf, group } = self;
        let is_aead = encryption.kind == AlgorithmKind::Aead;
        let shown = quoted(text);
        let help = |text: String| Some(text);
        let (message, help) = match (integrity, prf, group) {
            (Some(integrity), _, _) if is_aead => (
                format!("{shown} has {integrity} beside {encryption}, which protects integrity itself"),
                match (protocol, prf) {
                    (Protocol::Ike, None) => help(format!("write prf{integrity} for {integrity}")),
                    _ => help(format!("remove {integrity}")),
                },
            ),
            (None, _, _) if !is_aead => (
                format!("{shown} has no integrity algorithm beside {encryption}"),
                help(format!("add one, such as {encryption}-sha384")),
            ),
            (_, None, _) if is_aead && protocol == Protocol::Ike => (
                format!("{shown} has no pseudo-random function, which IKE needs beside {encryption}"),
                help(format!("add one, such as {encryption}-prfsha384")),
            ),
            (_, Some(prf), _) if protocol == Protocol::Esp => (
                format!("{shown} has the pseudo-random function {prf}, which only IKE uses"),
                help(format!("remove {prf}")),
            ),
            (_, _, None) if protocol == Protocol::Ike => {
                (format!("{shown} has no Diffie-Hellman group, which IKE needs"), help(format!("write {text}-ecp384")))
            }
            _ => return Ok(()),
        };
        let problem = Problem::new(message);
        Err(help.map_or(problem.clone(), |help| problem.help(help)))
    }

    fn others(&self) -> impl Iterator<Item = &'static Algorithm> {
        [self.integrity, self.prf, self.group].into_iter().flatten()
    }

    /// Its weak algorithms, each with the reason.
    pub fn weaknesses(&self) -> impl Iterator<Item = String> {
        let all = std::iter::once(self.encryption).chain(self.others());
        all.filter_map(|algorithm| Some(format!("{algorithm} {}", algorithm.weakness?)))
    }
}

impl Protocol {
    /// A valid proposal, for messages.
    pub const fn example(self) -> &'static str {
        match self {
            Self::Ike => super::DEFAULT_IKE_PROPOSALS[0],
            Self::Esp => super::DEFAULT_ESP_PROPOSALS[0],
        }
    }
}

fn unknown(text: &str, word: &str) -> Problem {
    let of = if word == text { String::new() } else { format!(" in {}", quoted(text)) };
    let problem = Problem::new(format!("unknown algorithm {}{of}", quoted(word)));
    match nearest(word, ALGORITHMS.iter().map(|algorithm| algorithm.name)) {
        Some(meant) => problem.help(format!("did you mean {}?", quoted(meant))),
        None => problem.help("write strongSwan's keywords, such as aes256gcm16, sha384, prfsha384, ecp384"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, protocol: Protocol) -> Result<String, String> {
        Proposal::of(text, protocol).map(|proposal| proposal.to_string()).map_err(|problem| problem.message)
    }

    #[test]
    fn proposal_in_any_order_is_normalised() {
        for (text, protocol, expected) in [
            ("aes256gcm16-prfsha384-ecp384", Protocol::Ike, "aes256gcm16-prfsha384-ecp384"),
            ("ecp384-sha384-aes256", Protocol::Ike, "aes256-sha384-ecp384"),
            ("AES256GCM-PRFSHA512-X25519", Protocol::Ike, "aes256gcm16-prfsha512-curve25519"),
            ("aes128-sha256-prfsha512-modp3072", Protocol::Ike, "aes128-sha256-prfsha512-modp3072"),
            ("aes256gcm16", Protocol::Esp, "aes256gcm16"),
            ("chacha20poly1305-x25519", Protocol::Esp, "chacha20poly1305-curve25519"),
            ("3des-md5-modp1024", Protocol::Esp, "3des-md5-modp1024"),
        ] {
            assert_eq!(read(text, protocol).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn proposal_unable_to_negotiate_is_rejected() {
        for (text, protocol) in [
            ("", Protocol::Ike),
            ("aes256gcm16-prfsha384", Protocol::Ike),
            ("aes256gcm16-ecp384", Protocol::Ike),
            ("aes256-ecp384", Protocol::Ike),
            ("aes256-prfsha384-ecp384", Protocol::Ike),
            ("aes256gcm16-sha384-ecp384", Protocol::Ike),
            ("sha384-ecp384", Protocol::Ike),
            ("aes256-aes128-sha384-ecp384", Protocol::Ike),
            ("aes256 sha384", Protocol::Esp),
            ("aes256", Protocol::Esp),
            ("aes256gcm16-sha256", Protocol::Esp),
            ("aes256gcm16-prfsha256", Protocol::Esp),
            ("aes256gcm16-ecp384-ecp256", Protocol::Esp),
            ("aes256gcm17", Protocol::Esp),
        ] {
            assert!(read(text, protocol).is_err(), "{text}");
        }
    }

    #[test]
    fn weak_algorithms_are_all_listed() {
        let weak = Proposal::of("3des-sha1-modp1024", Protocol::Ike).expect("well-formed");
        assert_eq!(weak.weaknesses().count(), 3);
        let good = Proposal::of("aes256-sha384-ecp384", Protocol::Ike).expect("well-formed");
        assert_eq!(good.weaknesses().count(), 0);
    }
}
