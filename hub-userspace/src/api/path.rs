//! Paths of objects in requests.

use super::{CONNECTIONS, CUSTOMER_GATEWAYS, SEGMENTS};
use crate::store::ObjectId;

/// The path of a named object.
pub(super) fn path_of(id: &ObjectId) -> String {
    let kind = match id {
        ObjectId::Segment(_) => SEGMENTS,
        ObjectId::CustomerGateway(_) => CUSTOMER_GATEWAYS,
        ObjectId::Connection(_) | ObjectId::Route(_) | ObjectId::PolicyRoute(_) => CONNECTIONS,
    };
    format!("{kind}/{}", segment(&id.name()))
}

/// Encodes a name as a path segment, so that it cannot change the path.
pub(super) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
