//! The agent's part of `vpnhub trace`: some look-ups in the tables. The packet itself runs outside the loop.

use super::world::World;
use crate::{
    api_types::trace::TraceRequest,
    trace::{Prepared, TraceError, View, prepare},
};

impl World {
    /// Prepares a packet for the second load of the program.
    pub(super) fn trace(&self, request: &TraceRequest) -> Result<Prepared, TraceError> {
        let view = View { inputs: self.inputs(), rib: &self.rib, ids: &self.ids, tables: &self.tables };
        let attached = |interface: &str| self.attachments.status(&self.host, interface);
        prepare(view, &self.config, attached, request)
    }
}
