//! Algorithms by strongSwan's keywords (`proposal_keywords_static.txt` of libstrongswan), with their weaknesses.

use std::fmt;

/// Kind of an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlgorithmKind {
    /// Encryption that needs a separate integrity algorithm.
    Cipher,
    /// Encryption with built-in integrity protection.
    Aead,
    Integrity,
    /// Pseudo-random function of IKE.
    Prf,
    /// Diffie-Hellman group.
    Group,
}

/// One algorithm, including its key size if there are several.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Algorithm {
    /// The keyword.
    pub name: &'static str,
    pub kind: AlgorithmKind,
    /// Why it is deprecated.
    pub weakness: Option<&'static str>,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn good(name: &'static str, kind: AlgorithmKind) -> Algorithm {
    Algorithm { name, kind, weakness: None }
}

const fn weak(name: &'static str, kind: AlgorithmKind, why: &'static str) -> Algorithm {
    Algorithm { name, kind, weakness: Some(why) }
}

// RFC 8247 (IKEv2) and RFC 8221 (ESP) list deprecated algorithms and the reasons.
const BROKEN_HASH: &str = "is built on a broken hash";
const SMALL_GROUP: &str = "is a group small enough to be broken";

/// All supported algorithms.
pub static ALGORITHMS: &[Algorithm] = &[
    good("aes128", AlgorithmKind::Cipher),
    good("aes192", AlgorithmKind::Cipher),
    good("aes256", AlgorithmKind::Cipher),
    good("aes128ctr", AlgorithmKind::Cipher),
    good("aes192ctr", AlgorithmKind::Cipher),
    good("aes256ctr", AlgorithmKind::Cipher),
    good("camellia128", AlgorithmKind::Cipher),
    good("camellia192", AlgorithmKind::Cipher),
    good("camellia256", AlgorithmKind::Cipher),
    weak("3des", AlgorithmKind::Cipher, "has blocks of 64 bits, which leak after some gigabytes"),
    weak("des", AlgorithmKind::Cipher, "has a key of 56 bits, which can be found within a day"),
    good("aes128gcm16", AlgorithmKind::Aead),
    good("aes192gcm16", AlgorithmKind::Aead),
    good("aes256gcm16", AlgorithmKind::Aead),
    good("aes128ccm16", AlgorithmKind::Aead),
    good("aes192ccm16", AlgorithmKind::Aead),
    good("aes256ccm16", AlgorithmKind::Aead),
    good("chacha20poly1305", AlgorithmKind::Aead),
    good("sha256", AlgorithmKind::Integrity),
    good("sha384", AlgorithmKind::Integrity),
    good("sha512", AlgorithmKind::Integrity),
    good("aesxcbc", AlgorithmKind::Integrity),
    good("aescmac", AlgorithmKind::Integrity),
    weak("sha1", AlgorithmKind::Integrity, BROKEN_HASH),
    weak("md5", AlgorithmKind::Integrity, BROKEN_HASH),
    good("prfsha256", AlgorithmKind::Prf),
    good("prfsha384", AlgorithmKind::Prf),
    good("prfsha512", AlgorithmKind::Prf),
    good("prfaesxcbc", AlgorithmKind::Prf),
    good("prfaescmac", AlgorithmKind::Prf),
    weak("prfsha1", AlgorithmKind::Prf, BROKEN_HASH),
    weak("prfmd5", AlgorithmKind::Prf, BROKEN_HASH),
    good("curve25519", AlgorithmKind::Group),
    good("curve448", AlgorithmKind::Group),
    good("ecp256", AlgorithmKind::Group),
    good("ecp384", AlgorithmKind::Group),
    good("ecp521", AlgorithmKind::Group),
    good("modp2048", AlgorithmKind::Group),
    good("modp3072", AlgorithmKind::Group),
    good("modp4096", AlgorithmKind::Group),
    good("modp6144", AlgorithmKind::Group),
    good("modp8192", AlgorithmKind::Group),
    weak("modp768", AlgorithmKind::Group, SMALL_GROUP),
    weak("modp1024", AlgorithmKind::Group, SMALL_GROUP),
    weak("modp1536", AlgorithmKind::Group, SMALL_GROUP),
    weak("modp1024s160", AlgorithmKind::Group, SMALL_GROUP),
    weak("ecp192", AlgorithmKind::Group, SMALL_GROUP),
];

/// Group numbers (IANA, `IKEv2` Transform Type 4).
const GROUPS: &[(&str, u16)] = &[
    ("modp768", 1),
    ("modp1024", 2),
    ("modp1536", 5),
    ("modp2048", 14),
    ("modp3072", 15),
    ("modp4096", 16),
    ("modp6144", 17),
    ("modp8192", 18),
    ("ecp256", 19),
    ("ecp384", 20),
    ("ecp521", 21),
    ("modp1024s160", 22),
    ("ecp192", 25),
    ("curve25519", 31),
    ("curve448", 32),
];

/// Alternative names.
const ALIASES: &[(&str, &str)] = &[
    ("aes", "aes128"),
    ("aes128gcm", "aes128gcm16"),
    ("aes192gcm", "aes192gcm16"),
    ("aes256gcm", "aes256gcm16"),
    ("aes128gcm128", "aes128gcm16"),
    ("aes192gcm128", "aes192gcm16"),
    ("aes256gcm128", "aes256gcm16"),
    ("aes128ccm", "aes128ccm16"),
    ("aes192ccm", "aes192ccm16"),
    ("aes256ccm", "aes256ccm16"),
    ("camellia", "camellia128"),
    ("sha", "sha1"),
    ("sha2_256", "sha256"),
    ("sha2_384", "sha384"),
    ("sha2_512", "sha512"),
    ("x25519", "curve25519"),
    ("x448", "curve448"),
];

/// The number of a group, as used by devices.
pub fn group_number(group: &Algorithm) -> Option<u16> {
    GROUPS.iter().find(|(name, _)| *name == group.name).map(|(_, number)| *number)
}

/// The algorithm of that name, case-insensitive.
pub fn find(name: &str) -> Option<&'static Algorithm> {
    let lower = name.to_ascii_lowercase();
    let name = ALIASES.iter().find(|(alias, _)| *alias == lower).map_or(lower.as_str(), |(_, name)| name);
    ALGORITHMS.iter().find(|algorithm| algorithm.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithm_names_are_unique_and_groups_numbered() {
        for (index, algorithm) in ALGORITHMS.iter().enumerate() {
            assert!(ALGORITHMS[..index].iter().all(|other| other.name != algorithm.name), "{algorithm}");
            assert_eq!(group_number(algorithm).is_some(), algorithm.kind == AlgorithmKind::Group, "{algorithm}");
        }
        for (alias, name) in ALIASES {
            assert_eq!(find(alias).map(|found| found.name), Some(*name));
        }
    }
}
