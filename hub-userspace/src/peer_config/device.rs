//! Template functions for a device: its supported algorithms, and its names for them.

use minijinja::{
    Error, ErrorKind,
    value::{Kwargs, Serde, Value},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Longest secret that all devices accept.
const LONGEST_SECRET: usize = 128;

fn refused(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// A proposal as passed from a template.
#[derive(Deserialize)]
pub struct DeviceAlgorithms {
    text: String,
    encryption: String,
    integrity: String,
    prf: String,
    group: String,
    group_number: u16,
    aead: bool,
}

/// A proposal in the device's terms; an absent part is the empty string, or 0.
#[derive(Serialize)]
struct Known {
    /// Counted from 1.
    number: usize,
    text: String,
    encryption: String,
    integrity: String,
    prf: String,
    group: u16,
    aead: bool,
}

/// `choose(proposals, "IKE", encryption={..}, hash={..}, groups=[..])`: the proposals that the device supports, in its
/// terms. `hash` maps hash names, for integrity and pseudo-random functions alike. An error if none is supported.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands the words over")]
pub fn choose(Serde(proposals): Serde<Vec<DeviceAlgorithms>>, what: &str, words: Kwargs) -> Result<Value, Error> {
    let Serde(ciphers): Serde<BTreeMap<String, String>> = words.get("encryption")?;
    let Serde(hashes): Serde<BTreeMap<String, String>> = words.get("hash")?;
    let Serde(groups): Serde<BTreeSet<u16>> = words.get("groups")?;
    words.assert_all_used()?;
    // The empty string is an absent part.
    let hash = |name: &str| if name.is_empty() { Some(String::new()) } else { hashes.get(name).cloned() };
    let known = proposals.iter().filter_map(|proposal| {
        Some(Known {
            number: 0,
            text: proposal.text.clone(),
            encryption: ciphers.get(&proposal.encryption)?.clone(),
            integrity: hash(&proposal.integrity)?,
            // Without an explicit one, IKE uses the hash of the integrity algorithm.
            prf: match proposal.prf.strip_prefix("prf") {
                Some(prf) => hash(prf)?,
                None => hash(&proposal.integrity)?,
            },
            group: if proposal.group.is_empty() || groups.contains(&proposal.group_number) {
                proposal.group_number
            } else {
                return None;
            },
            aead: proposal.aead,
        })
    });
    let known: Vec<Known> = known.zip(1..).map(|(known, number)| Known { number, ..known }).collect();
    if known.is_empty() {
        let all: Vec<_> = proposals.iter().map(|proposal| proposal.text.as_str()).collect();
        return Err(refused(format!(
            "the device supports none of the {what} proposals ({}); help: add one that it supports, such as {}",
            all.join(", "),
            if what == "IKE" { "aes256-sha256-modp2048" } else { "aes256-sha256-modp2048 or aes256gcm16-modp2048" }
        )));
    }
    Ok(Value::from(Serde(known)))
}

/// `{..}|word(key, "the identity")`: the device's term, or an error that names the unsupported key.
pub fn word(Serde(words): Serde<BTreeMap<String, String>>, key: &str, what: &str) -> Result<String, Error> {
    words.get(key).cloned().ok_or_else(|| {
        let known: Vec<_> = words.keys().map(String::as_str).collect();
        refused(format!("the device does not support {key} as {what}; help: use one of {}", known.join(", ")))
    })
}

/// A secret for a device's command line.
pub fn typed(secret: &str) -> Result<String, Error> {
    // `?` opens the help; quotes and backslashes differ in meaning from device to device.
    if let Some(odd) = secret.chars().find(|c| "?\"'\\`$;".contains(*c)) {
        return Err(refused(format!(
            "the secret contains {odd}, which has a special meaning on the device's command line; help: make a new one \
             with `openssl rand -base64 32`"
        )));
    }
    if secret.len() > LONGEST_SECRET {
        return Err(refused(format!(
            "the secret is longer than the {LONGEST_SECRET} characters that the device accepts; help: make a new one \
             with `openssl rand -base64 32`"
        )));
    }
    Ok(secret.to_owned())
}

/// A secret in the syntax of strongSwan's files.
pub fn quoted(secret: &str) -> String {
    // The prefixes 0x and 0s mark hexadecimal and base64.
    let is_plain = !secret.starts_with("0x") && !secret.starts_with("0s") && !secret.contains(['"', '\\']);
    if is_plain {
        return format!("\"{secret}\"");
    }
    let digits: Vec<String> = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{}", digits.concat())
}

#[cfg(test)]
mod tests {
    use super::{quoted, typed};

    #[test]
    fn secrets_are_quoted_losslessly_or_rejected() {
        assert_eq!(quoted("a+b/c="), "\"a+b/c=\"");
        assert_eq!(quoted("0xab"), "0x30786162");
        assert_eq!(quoted("0sYQ=="), "0x307359513d3d");
        assert_eq!(quoted("a\"b"), "0x612262");
        assert!(typed("a+b/c=").is_ok());
        for secret in ["a?b", "a\"b", "a\\b", "a;b", &"x".repeat(129)] {
            let error = typed(secret).expect_err(secret).to_string();
            assert!(!error.contains(secret), "{error}");
        }
    }
}
