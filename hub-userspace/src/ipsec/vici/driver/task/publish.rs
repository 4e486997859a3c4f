//! Publishes the state of the tunnels.

use std::{mem, sync::Arc};

use tokio::time::Instant;

use super::{
    super::super::{
        desired::{connection_of, name_of},
        tunnels::Tunnels,
    },
    DriverTask,
};

impl DriverTask {
    /// Publishes the tunnels that have changed. The work does not depend on the number of the others.
    pub(super) fn publish(&mut self) {
        if self.is_forgotten() {
            self.table.clear();
        }
        let old = Arc::clone(&self.publisher.borrow());
        let mut view = Tunnels::clone(&old);
        let mut is_modified = false;
        let changed = self.table.take_changed();
        if mem::take(&mut self.all_changed) {
            view.problems = self.refusals.problems(&self.desired);
            view.tunnels = view.tunnels.into_iter().filter(|(name, _)| self.config.tunnel(name).is_some()).collect();
            let config = Arc::clone(&self.config);
            self.table.keep_rekeys(|name| connection_of(name).is_some_and(|name| config.tunnel(name).is_some()));
            for tunnel in config.tunnels() {
                self.update(&mut view, tunnel.name, true);
            }
            is_modified = true;
        } else {
            for name in changed.iter().filter_map(|name| connection_of(name)) {
                is_modified |= self.config.tunnel(name).is_some() && self.update(&mut view, name, false);
            }
        }
        let unreachable = self.lost.as_ref().filter(|_| self.is_forgotten()).map(|(_, why)| why.clone());
        let stranger = self.strangers.last();
        if self.lacks_per_cpu_sas != view.lacks_per_cpu_sas {
            view.lacks_per_cpu_sas.clone_from(&self.lacks_per_cpu_sas);
            is_modified = true;
        }
        is_modified |= (&unreachable, self.heard, stranger) != (&view.unreachable, view.heard, view.stranger.as_ref());
        if is_modified {
            (view.unreachable, view.heard, view.stranger) = (unreachable, self.heard, stranger.cloned());
            self.publisher.send_replace(Arc::new(view));
        }
    }

    /// Updates a tunnel in the view. Returns whether it differs.
    fn update(&mut self, view: &mut Tunnels, name: &str, is_reconfigured: bool) -> bool {
        let charon_name = name_of(name);
        let tunnel = self.table.tunnel(&charon_name);
        self.must_load |= !tunnel.is_up() && self.deferred.contains(&charon_name);
        if let Some(rush) = &mut self.rush
            && tunnel.is_up()
        {
            rush.is_up(name, Instant::now());
        }
        let old = view.tunnels.get(name);
        if is_reconfigured || old.is_none_or(|old| !old.is_same(&tunnel)) {
            self.set_retry(name, &tunnel);
        }
        if old.is_some_and(|old| **old == tunnel) {
            return false;
        }
        view.tunnels.insert(name.to_owned(), Arc::new(tunnel));
        true
    }
}
