//! The connections of a server. Their number is limited. An idle connection is closed to make room for a new
//! one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::AbortHandle;

/// Maximum number of concurrent connections of the control socket.
pub(super) const MOST: usize = 64;
/// Connections reserved for root, so that other users cannot lock root out.
pub(super) const FOR_ROOT: usize = 16;

/// Open connections, oldest first.
pub(super) struct Connections(Mutex<OpenConnection>);

struct OpenConnection {
    most: usize,
    for_root: usize,
    next: u64,
    entries: BTreeMap<u64, Arc<ClientConnection>>,
}

/// One connection.
pub(super) struct ClientConnection {
    number: u64,
    is_root: bool,
    /// Its request has arrived; there is one per connection.
    asks: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

/// Every connection has a pending request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyConnections;

impl ClientConnection {
    /// Marks the connection as busy: it is no longer closed to make room.
    pub fn asks(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    pub fn runs_as(&self, task: AbortHandle) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    fn end(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Connections {
    /// `most` connections, of them `for_root` for root only.
    pub fn new(most: usize, for_root: usize) -> Self {
        Self(Mutex::new(OpenConnection { most, for_root, next: 0, entries: BTreeMap::new() }))
    }

    /// Admits a connection. At the limit, the oldest idle connection is closed; root's idle connections only for
    /// root.
    pub fn admit(&self, is_root: bool) -> Result<Arc<ClientConnection>, TooManyConnections> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = open.entries.values().filter(|entry| !entry.is_root).count();
        if open.entries.len() >= open.most || (!is_root && others >= open.most - open.for_root) {
            let idle =
                |entry: &&Arc<ClientConnection>| !entry.asks.load(Ordering::Relaxed) && (is_root || !entry.is_root);
            let oldest = open.entries.values().find(idle).map(Arc::clone).ok_or(TooManyConnections)?;
            oldest.end();
            open.entries.remove(&oldest.number);
        }
        let number = open.next;
        open.next += 1;
        let entry =
            Arc::new(ClientConnection { number, is_root, asks: AtomicBool::new(false), task: Mutex::default() });
        open.entries.insert(number, Arc::clone(&entry));
        Ok(entry)
    }

    /// Removes a connection that has ended.
    pub fn remove(&self, entry: &ClientConnection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&entry.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(connections: &Connections, entry: &ClientConnection) -> bool {
        connections.0.lock().expect("nobody panics").entries.contains_key(&entry.number)
    }

    #[test]
    fn oldest_idle_connection_is_closed_at_limit() {
        let connections = Connections::new(MOST, FOR_ROOT);
        let all: Vec<_> = (0..MOST).map(|_| connections.admit(true).expect("there is room")).collect();
        all[0].asks();
        for entry in &all[1..] {
            connections.admit(true).expect("an idle one ends");
            assert!(!has(&connections, entry) && has(&connections, &all[0]));
        }
        assert_eq!(connections.0.lock().expect("nobody panics").entries.len(), MOST);
    }

    #[test]
    fn busy_connections_at_limit_reject_new_one() {
        let connections = Connections::new(MOST, FOR_ROOT);
        let all: Vec<_> = (0..MOST).map(|_| connections.admit(true).expect("there is room")).collect();
        for entry in &all {
            entry.asks();
        }
        assert_eq!(connections.admit(true).err(), Some(TooManyConnections));
        connections.remove(&all[5]);
        connections.admit(true).expect("there is room again");
    }

    #[test]
    fn unprivileged_connections_leave_room_for_root() {
        let connections = Connections::new(MOST, FOR_ROOT);
        let root = connections.admit(true).expect("there is room");
        let others: Vec<_> = (0..MOST - FOR_ROOT).map(|_| connections.admit(false).expect("there is room")).collect();
        connections.admit(false).expect("an idle one of theirs ends");
        assert!(has(&connections, &root) && !has(&connections, &others[0]));
        for entry in connections.0.lock().expect("nobody panics").entries.values().filter(|entry| !entry.is_root) {
            entry.asks();
        }
        assert_eq!(connections.admit(false).err(), Some(TooManyConnections));
        assert!(has(&connections, &root));
        for _ in 1..FOR_ROOT {
            connections.admit(true).expect("there is room for root");
        }
    }
}
