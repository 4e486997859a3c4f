//! The value of `mss_clamp`.

use std::ops::RangeInclusive;

use hub_common::maps::MssLimits;
use toml::de::DeValue;

use super::{
    model::MssClamp,
    value::{Read, integer, wrong_type},
};

const BYTES: RangeInclusive<u16> = MssLimits::LOWEST..=MssLimits::HIGHEST;

/// `"auto"`, `"off"`, or a number of bytes.
pub(super) fn mss_clamp(value: &DeValue<'_>) -> Read<MssClamp> {
    match value.as_str() {
        Some("auto") => return Ok(MssClamp::Auto),
        Some("off") => return Ok(MssClamp::Off),
        _ => {}
    }
    let bytes = integer(value, 0..=u32::from(u16::MAX)).ok().and_then(|bytes| u16::try_from(bytes).ok());
    if let Some(bytes) = bytes.filter(|bytes| BYTES.contains(bytes)) {
        return Ok(MssClamp::Bytes(bytes));
    }
    let range = format!("{} to {}", BYTES.start(), BYTES.end());
    let problem = wrong_type(&format!("\"auto\", \"off\" or a number of bytes from {range}"), value);
    Err(match value.as_str().and_then(|text| text.parse::<u16>().ok()).filter(|bytes| BYTES.contains(bytes)) {
        Some(bytes) => problem.help(format!("write {bytes} without quotes")),
        None => problem.help("write \"auto\" for the MTU of the interface less the headers"),
    })
}
