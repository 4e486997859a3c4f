//! Follows changes of sysctls by other processes. The kernel has no event for most of them, but reports each write to
//! the file (inotify(7)).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

/// What a change concerns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// Sysctls of the network namespace.
    Namespace,
    /// Sysctls of an interface, by name.
    Interface(String),
}

/// Index and MTU of an interface: its directories are new when they differ.
type Incarnation = (u32, u32);

#[derive(Debug)]
pub struct SysctlWatch {
    root: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    /// By watch descriptor.
    watched: BTreeMap<i32, Watched>,
    /// Interfaces by name, with their watch descriptors.
    interfaces: BTreeMap<String, (Incarnation, Vec<i32>)>,
}

impl SysctlWatch {
    /// Watches the sysctls of the network namespace below `root`. Needs a runtime.
    pub fn start(root: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is open, and stays open and unchanged until it is dropped with the `AsyncFd`.
        let inotify = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?;
        let mut watch = Self { root: root.to_owned(), inotify, watched: BTreeMap::new(), interfaces: BTreeMap::new() };
        for family in ["ipv4", "ipv6"] {
            if let Some(descriptor) = watch.add(Path::new(family)) {
                watch.watched.insert(descriptor, Watched::Namespace);
            }
        }
        Ok(watch)
    }

    /// Sets the complete set of interfaces to watch.
    pub fn follow(&mut self, interfaces: &BTreeMap<String, Incarnation>) {
        let obsolete: Vec<String> = self
            .interfaces
            .iter()
            .filter(|(name, (incarnation, _))| interfaces.get(*name) != Some(incarnation))
            .map(|(name, _)| name.clone())
            .collect();
        for (_, descriptors) in obsolete.iter().filter_map(|name| self.interfaces.remove(name)) {
            for descriptor in descriptors {
                self.watched.remove(&descriptor);
                // The kernel may have removed it with the directory.
                let _ = inotify::remove_watch(&self.inotify, descriptor);
            }
        }
        for (name, incarnation) in interfaces {
            if self.interfaces.contains_key(name) {
                continue;
            }
            let directories = ["ipv4/conf", "ipv6/conf"].map(|family| Path::new(family).join(name));
            let descriptors: Vec<i32> = directories.iter().filter_map(|directory| self.add(directory)).collect();
            for descriptor in &descriptors {
                self.watched.insert(*descriptor, Watched::Interface(name.clone()));
            }
            self.interfaces.insert(name.clone(), (*incarnation, descriptors));
        }
    }

    /// Watches a directory; `None` if it does not exist, or if the user's limit of watches is reached. The periodic
    /// audit still finds changes there.
    fn add(&self, directory: &Path) -> Option<i32> {
        let flags = WatchFlags::MODIFY | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.inotify, self.root.join(directory), flags).ok()
    }

    /// The next changes. Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<BTreeSet<Watched>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut changed = BTreeSet::new();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    // The kernel has dropped events.
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                        changed.extend(self.watched.values().cloned());
                    }
                    Ok(event) => changed.extend(self.watched.get(&event.wd()).cloned()),
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if !changed.is_empty() {
                return Ok(changed);
            }
        }
    }
}
