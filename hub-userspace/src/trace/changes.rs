//! The differences between a frame before and after the program.

use super::{
    explain::mac,
    packet::{Frame, Ip},
};
use crate::api_types::trace::FieldChange;

/// Fields that differ, in the order of the headers. Checksums follow from them.
pub fn changes(before: &Frame, after: &Frame) -> Vec<FieldChange> {
    let macs = |frame: &Frame| match frame.macs {
        Some((destination, source)) => [Some(mac(destination)), Some(mac(source))],
        None => [None, None],
    };
    let ip = |frame: &Frame| match &frame.ip {
        Some(Ip { source, destination, length, hop_limit, .. }) => {
            let [source, destination] = [source, destination].map(|address| Some(address.to_string()));
            [source, destination, Some(length.to_string()), Some(hop_limit.to_string())]
        }
        None => Default::default(),
    };
    let tags = |frame: &Frame| match frame.tags.as_slice() {
        [] => None,
        tags => Some(tags.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mss = |frame: &Frame| Some(frame.ip.as_ref()?.mss()?.to_string());
    let fields = |frame: &Frame| {
        let ([destination_mac, source_mac], [source, destination, length, ttl]) = (macs(frame), ip(frame));
        [
            ("destination_mac", destination_mac),
            ("source_mac", source_mac),
            ("vlan", tags(frame)),
            ("source", source),
            ("destination", destination),
            ("length", length),
            ("ttl", ttl),
            ("mss", mss(frame)),
        ]
    };
    let none = || "none".to_owned();
    let both = fields(before).into_iter().zip(fields(after)).filter(|((_, before), (_, after))| before != after);
    both.map(|((field, before), (_, after))| FieldChange {
        field: field.to_owned(),
        before: before.unwrap_or_else(none),
        after: after.unwrap_or_else(none),
    })
    .collect()
}
