//! The largest packet that fits a link in ESP: tunnel mode, without compression. Pure.
//!
//! ESP adds 8 bytes of header, the IV, padding, a trailer of 2 bytes and the ICV (RFC 4303 section 2). The packet and
//! its trailer are padded to the cipher's block, 4 bytes at least. The kernel computes the same in `__xfrm_state_mtu`
//! (`net/xfrm/xfrm_state.c`).

use crate::config::ipsec::{Algorithm, InterfaceMtu, Proposal};

/// Bytes of an ESP header: SPI and sequence number.
const ESP_HEADER: u32 = 8;
/// Pad length and next header.
const ESP_TRAILER: u32 = 2;
const UDP_HEADER: u32 = 8;

/// Bytes that an SA's algorithms add to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspSizes {
    pub iv: u32,
    /// Packet and trailer are padded to a multiple; at least 4.
    pub block: u32,
    pub icv: u32,
}

/// Outer headers and the link below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// MTU of the link.
    pub mtu: u32,
    pub is_ipv6: bool,
    /// UDP encapsulation: NAT traversal (RFC 3948).
    pub is_in_udp: bool,
}

/// An encryption algorithm.
struct Cipher {
    /// strongSwan's keyword without the key size (`proposal_keywords_static.txt`).
    keyword: &'static str,
    /// Its name in VICI (`encryption_algorithm_names`, crypter.c, and those of aead.c).
    name: &'static str,
    iv: u32,
    block: u32,
    /// Of an AEAD; 0 with a separate integrity algorithm.
    icv: u32,
}

const fn cipher(keyword: &'static str, name: &'static str, iv: u32, block: u32, icv: u32) -> Cipher {
    Cipher { keyword, name, iv, block, icv }
}

/// CBC: an IV of one block (RFC 2451, RFC 3602, RFC 4312). Counter modes: an explicit IV of 8 bytes, and padding to 4
/// bytes only (CTR: RFC 3686, GCM: RFC 4106, CCM: RFC 4309, ChaCha20-Poly1305: RFC 7634).
static CIPHERS: [Cipher; 12] = [
    cipher("aes", "AES_CBC", 16, 16, 0),
    cipher("camellia", "CAMELLIA_CBC", 16, 16, 0),
    cipher("3des", "3DES_CBC", 8, 8, 0),
    cipher("des", "DES_CBC", 8, 8, 0),
    cipher("aesctr", "AES_CTR", 8, 4, 0),
    cipher("aesgcm16", "AES_GCM_16", 8, 4, 16),
    cipher("aesgcm12", "AES_GCM_12", 8, 4, 12),
    cipher("aesgcm8", "AES_GCM_8", 8, 4, 8),
    cipher("aesccm16", "AES_CCM_16", 8, 4, 16),
    cipher("aesccm12", "AES_CCM_12", 8, 4, 12),
    cipher("aesccm8", "AES_CCM_8", 8, 4, 8),
    cipher("chacha20poly1305", "CHACHA20_POLY1305", 8, 4, 16),
];
/// Encryption of nothing (RFC 2410). Only others' configurations have it.
const NULL: Cipher = cipher("null", "NULL", 0, 4, 0);
/// The most that any algorithm adds, for an unknown one.
const WORST: Cipher = cipher("", "", 16, 16, 16);
const LARGEST_ICV: u32 = 32;

/// Integrity algorithms: keyword, name in VICI (`integrity_algorithm_names`, signer.c), bytes of the ICV. Half of the
/// hash with SHA-2 (RFC 4868 section 2.6), 96 bits with the others (RFC 2403, RFC 2404, RFC 3566, RFC 4494).
static INTEGRITIES: [(&str, &str, u32); 7] = [
    ("md5", "HMAC_MD5_96", 12),
    ("sha1", "HMAC_SHA1_96", 12),
    ("sha256", "HMAC_SHA2_256_128", 16),
    ("sha384", "HMAC_SHA2_384_192", 24),
    ("sha512", "HMAC_SHA2_512_256", 32),
    ("aesxcbc", "AES_XCBC_96", 12),
    ("aescmac", "AES_CMAC_96", 12),
];

impl EspSizes {
    /// Of a proposal in the configuration.
    pub fn of_proposal(proposal: &Proposal) -> Self {
        let cipher = cipher_of(proposal.encryption).unwrap_or(&WORST);
        let icv = proposal.integrity.map(|integrity| {
            let found = INTEGRITIES.iter().find(|(keyword, ..)| *keyword == integrity.name);
            found.map_or(LARGEST_ICV, |(_, _, icv)| *icv)
        });
        Self::with(cipher, icv)
    }

    /// Of algorithms as VICI names them; `None` if one is unknown. `integrity` is absent with an AEAD.
    pub fn of_names(encryption: &str, integrity: Option<&str>) -> Option<Self> {
        let cipher = CIPHERS.iter().chain([&NULL]).find(|cipher| cipher.name == encryption)?;
        let icv = match integrity {
            Some(name) => Some(INTEGRITIES.iter().find(|(_, known, _)| *known == name)?.2),
            None => None,
        };
        Some(Self::with(cipher, icv))
    }

    fn with(cipher: &Cipher, icv: Option<u32>) -> Self {
        Self { iv: cipher.iv, block: cipher.block, icv: icv.unwrap_or(cipher.icv) }
    }
}

/// The cipher of an algorithm: its keyword has the key size within it or at its end.
fn cipher_of(algorithm: &Algorithm) -> Option<&'static Cipher> {
    let without_size = |size: &str| algorithm.name.replacen(size, "", 1);
    let is_it = |cipher: &&Cipher| {
        cipher.keyword == algorithm.name
            || ["128", "192", "256"].iter().any(|size| cipher.keyword == without_size(size))
    };
    CIPHERS.iter().find(is_it)
}

/// The largest packet that fits the link, header included, in bytes. 0 if none does.
pub fn largest_packet(outer: Outer, esp: EspSizes) -> u32 {
    let header = if outer.is_ipv6 { 40 } else { 20 };
    let udp = if outer.is_in_udp { UDP_HEADER } else { 0 };
    let room = outer.mtu.saturating_sub(header + udp + ESP_HEADER + esp.iv + esp.icv);
    (room / esp.block * esp.block).saturating_sub(ESP_TRAILER)
}

/// The MTU of an xfrm interface: as [`largest_packet`], within the limits of `interface_mtu`. Below IPv6's minimum MTU
/// the interface would lose IPv6: outer packets are fragmented instead.
pub fn interface_mtu(outer: Outer, esp: EspSizes) -> u32 {
    largest_packet(outer, esp).clamp(InterfaceMtu::LOWEST, InterfaceMtu::HIGHEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ipsec::{ALGORITHMS, AlgorithmKind};

    const GCM: EspSizes = EspSizes { iv: 8, block: 4, icv: 16 };
    const CBC_SHA256: EspSizes = EspSizes { iv: 16, block: 16, icv: 16 };

    fn variants() -> [(bool, bool); 4] {
        [(false, false), (false, true), (true, false), (true, true)]
    }

    #[test]
    fn eight_variants_on_link_of_1500_bytes_are_exact() {
        for (esp, expected) in [(GCM, [1446, 1438, 1426, 1418]), (CBC_SHA256, [1438, 1422, 1406, 1406])] {
            for ((is_ipv6, is_in_udp), expected) in variants().into_iter().zip(expected) {
                let outer = Outer { mtu: 1500, is_ipv6, is_in_udp };
                assert_eq!(interface_mtu(outer, esp), expected, "{esp:?} {outer:?}");
            }
        }
    }

    /// Bytes of the outer packet around one of `inner` bytes, written down from RFC 4303 figure 2.
    fn outer_length(outer: Outer, esp: EspSizes, inner: u32) -> u32 {
        let header = if outer.is_ipv6 { 40 } else { 20 };
        let udp = if outer.is_in_udp { 8 } else { 0 };
        let padding =
            (0..esp.block).find(|padding| (inner + padding + 1 + 1).is_multiple_of(esp.block)).expect("one of them");
        header + udp + 4 + 4 + esp.iv + inner + padding + 1 + 1 + esp.icv
    }

    #[test]
    fn largest_packet_fits_and_next_byte_does_not() {
        for (encryption, integrity) in pairs() {
            let esp = EspSizes::of_proposal(&Proposal { encryption, integrity, prf: None, group: None });
            for mtu in (1280..1320).chain(1490..1510).chain([9000, 65535]) {
                for (is_ipv6, is_in_udp) in variants() {
                    let outer = Outer { mtu, is_ipv6, is_in_udp };
                    let inner = largest_packet(outer, esp);
                    assert!(outer_length(outer, esp, inner) <= mtu, "{esp:?} {outer:?}: {inner}");
                    assert!(outer_length(outer, esp, inner + 1) > mtu, "{esp:?} {outer:?}: {inner}");
                }
            }
        }
    }

    /// All combinations that a proposal may have.
    fn pairs() -> Vec<(&'static Algorithm, Option<&'static Algorithm>)> {
        let of = |kind| ALGORITHMS.iter().filter(move |algorithm| algorithm.kind == kind);
        let aeads = of(AlgorithmKind::Aead).map(|aead| (aead, None));
        let ciphers = of(AlgorithmKind::Cipher)
            .flat_map(|cipher| of(AlgorithmKind::Integrity).map(move |integrity| (cipher, Some(integrity))));
        aeads.chain(ciphers).collect()
    }

    #[test]
    fn sizes_of_all_algorithms_are_known() {
        let of = |kind| ALGORITHMS.iter().filter(move |algorithm| algorithm.kind == kind);
        for cipher in of(AlgorithmKind::Cipher).chain(of(AlgorithmKind::Aead)) {
            assert!(cipher_of(cipher).is_some(), "{cipher}");
            let is_aead = cipher_of(cipher).is_some_and(|found| found.icv > 0);
            assert_eq!(is_aead, cipher.kind == AlgorithmKind::Aead, "{cipher}");
        }
        for integrity in of(AlgorithmKind::Integrity) {
            assert!(INTEGRITIES.iter().any(|(keyword, ..)| *keyword == integrity.name), "{integrity}");
        }
        for cipher in CIPHERS.iter().chain([&NULL]) {
            let is_bounded = cipher.iv <= WORST.iv && cipher.block <= WORST.block && cipher.icv <= WORST.icv;
            assert!(is_bounded && cipher.block.is_multiple_of(4), "{}", cipher.name);
        }
        assert!(INTEGRITIES.iter().all(|(.., icv)| *icv <= LARGEST_ICV));
    }

    #[test]
    fn proposals_and_negotiated_names_give_same_sizes() {
        for (text, encryption, integrity, (iv, block, icv)) in [
            ("aes128gcm16", "AES_GCM_16", None, (8, 4, 16)),
            ("aes256ccm16-ecp256", "AES_CCM_16", None, (8, 4, 16)),
            ("chacha20poly1305", "CHACHA20_POLY1305", None, (8, 4, 16)),
            ("aes128-sha256", "AES_CBC", Some("HMAC_SHA2_256_128"), (16, 16, 16)),
            ("aes256-sha384-ecp384", "AES_CBC", Some("HMAC_SHA2_384_192"), (16, 16, 24)),
            ("aes192-sha512", "AES_CBC", Some("HMAC_SHA2_512_256"), (16, 16, 32)),
            ("aes256ctr-sha1", "AES_CTR", Some("HMAC_SHA1_96"), (8, 4, 12)),
            ("camellia256-aesxcbc", "CAMELLIA_CBC", Some("AES_XCBC_96"), (16, 16, 12)),
            ("aes128-aescmac", "AES_CBC", Some("AES_CMAC_96"), (16, 16, 12)),
            ("3des-md5", "3DES_CBC", Some("HMAC_MD5_96"), (8, 8, 12)),
            ("des-md5", "DES_CBC", Some("HMAC_MD5_96"), (8, 8, 12)),
        ] {
            let proposal = proposal(text);
            let expected = EspSizes { iv, block, icv };
            assert_eq!(EspSizes::of_proposal(&proposal), expected, "{text}");
            assert_eq!(EspSizes::of_names(encryption, integrity), Some(expected), "{text}");
        }
        let null = EspSizes { iv: 0, block: 4, icv: 12 };
        assert_eq!(EspSizes::of_names("NULL", Some("HMAC_SHA1_96")), Some(null));
        assert_eq!(EspSizes::of_names("SERPENT_CBC", Some("HMAC_SHA1_96")), None);
        assert_eq!(EspSizes::of_names("AES_CBC", Some("HMAC_SHA2_256_96")), None);
    }

    fn proposal(text: &str) -> Proposal {
        let mut proposal: Option<Proposal> = None;
        for word in text.split('-') {
            let found = ALGORITHMS.iter().find(|algorithm| algorithm.name == word).expect("an algorithm");
            match (&mut proposal, found.kind) {
                (None, _) => {
                    proposal = Some(Proposal { encryption: found, integrity: None, prf: None, group: None });
                }
                (Some(proposal), AlgorithmKind::Integrity) => proposal.integrity = Some(found),
                (Some(proposal), _) => proposal.group = Some(found),
            }
        }
        proposal.expect("a word")
    }

    #[test]
    fn interface_mtu_stays_within_limits() {
        let outer = |mtu| Outer { mtu, is_ipv6: true, is_in_udp: true };
        assert_eq!(interface_mtu(outer(1280), GCM), 1280);
        assert_eq!(interface_mtu(outer(0), GCM), 1280);
        assert_eq!(largest_packet(outer(0), GCM), 0);
        assert_eq!(interface_mtu(outer(u32::MAX), GCM), 65535);
    }
}
