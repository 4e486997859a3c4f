//! Learned routes: the table of a routing daemon, and what of it is in the RIB.

use std::sync::Arc;

use tracing::warn;

use super::world::World;

impl World {
    /// Brings the RIB's learned routes up to date. With `host`, links or addresses may have changed; with `config`, the
    /// configuration.
    pub(super) fn follow_learned(&mut self, host: bool, config: bool) {
        if self.config.learn.is_none() && self.learned.is_idle() {
            return;
        }
        if config {
            self.learned.note_config(&self.config, &self.host);
        } else if host {
            self.learned.note_host(&self.config, &self.host);
        }
        if self.learned.has_changed() {
            // `make_mut` copies the RIB while a snapshot uses it.
            self.learned.follow(&self.config, Arc::make_mut(&mut self.rib));
        }
        for news in self.learned.take_news() {
            let (subject, prefix, reason) = (&*news.subject, news.prefix, &news.reason);
            match news.is_connection {
                true => warn!(connection = subject, "learned route {prefix} is refused: {reason}"),
                false => warn!(interface = subject, "learned route {prefix} is refused: {reason}"),
            }
        }
    }
}
