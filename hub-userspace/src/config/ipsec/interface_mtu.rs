//! The value of `interface_mtu`.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::super::value::{Read, integer, wrong_type};

/// From IPv6's minimum MTU to the largest IP packet.
const BYTES: RangeInclusive<u32> = 1280..=65535;

/// The MTU of an interface that the agent creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceMtu {
    /// The largest packet that fits the link below with its ESP header, as negotiated.
    Auto,
    /// Within [`Self::LOWEST`] and the largest IP packet.
    Bytes(u32),
}

impl InterfaceMtu {
    /// The smallest MTU: IPv6's minimum (RFC 8200 section 5).
    pub const LOWEST: u32 = *BYTES.start();
    /// The largest MTU: the largest IP packet.
    pub const HIGHEST: u32 = *BYTES.end();
}

/// `"auto"`, or a number of bytes.
pub(super) fn interface_mtu(value: &DeValue<'_>) -> Read<InterfaceMtu> {
    if value.as_str() == Some("auto") {
        return Ok(InterfaceMtu::Auto);
    }
    if let Ok(bytes) = integer(value, BYTES) {
        return Ok(InterfaceMtu::Bytes(bytes));
    }
    let range = format!("{} to {}", BYTES.start(), BYTES.end());
    let problem = wrong_type(&format!("\"auto\" or a whole number from {range}"), value);
    Err(match value.as_str().and_then(|text| text.parse::<u32>().ok()).filter(|bytes| BYTES.contains(bytes)) {
        Some(bytes) => problem.help(format!("write {bytes} without quotes")),
        None if value.as_str().is_some() => {
            problem.help("write \"auto\" for the MTU of the link below less the headers of ESP, or a number of bytes")
        }
        None => problem.help(format!("choose a number from {range}")),
    })
}
