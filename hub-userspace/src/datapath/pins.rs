//! The bpffs directory that holds an instance's datapath while no agent runs.
//!
//! ```text
//! /sys/fs/bpf/vpnhub/INSTANCE/
//!   netns                symbolic link: the network namespace that the datapath is in
//!   xdp-native-IFINDEX   links, each with its program, which holds its maps
//!   xdp-generic-IFINDEX
//!   tcx-IFINDEX
//!   clsact-IFINDEX       symbolic link: before Linux 6.6, a filter of ours is there, which cannot be pinned
//!   tcx-egress-IFINDEX   the same two at egress: the interface has translations
//!   egress-IFINDEX
//!   spread-native-IFINDEX   links of the program of super::spread, on underlay interfaces
//!   spread-generic-IFINDEX
//!   counters/            see super::records
//!   tables/              see super::groups
//!   counts               see super::saved_counts
//!   trace/               see super::tracer
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use aya::programs::{
    Link as _, TcAttachType,
    tc::{SchedClassifierLink, TcHandle},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, statfs},
    io::Errno,
    mount::{MountFlags, mount},
    net::{AddressFamily, SocketType, netdevice::index_to_name, socket},
};
use tracing::{debug, info};

use super::{DatapathError, Instance, bpf};

const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (linux/magic.h).
const BPFFS_MAGIC: i64 = 0xcafe_4a11;
const ROOT: &str = "/sys/fs/bpf/vpnhub";
const NETNS: &str = "netns";

/// Priority and handle of our `clsact` filters: they run before filters without a priority, and are constant so that
/// they can be replaced.
pub const FILTER_PRIORITY: u16 = 1;
pub const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachmentKind {
    Native,
    Generic,
    Tcx,
    /// A filter at ingress.
    Clsact,
    /// A link at egress; the program there translates.
    TcxEgress,
    /// A filter at egress.
    Egress,
    /// The program that distributes received ESP over CPUs, on an underlay interface.
    SpreadNative,
    SpreadGeneric,
}

impl AttachmentKind {
    const ALL: [Self; 8] = [
        Self::Native,
        Self::Generic,
        Self::Tcx,
        Self::Clsact,
        Self::TcxEgress,
        Self::Egress,
        Self::SpreadNative,
        Self::SpreadGeneric,
    ];

    pub fn is_xdp(self) -> bool {
        matches!(self, Self::Native | Self::Generic)
    }

    /// Not of the forwarder.
    pub fn is_spread(self) -> bool {
        matches!(self, Self::SpreadNative | Self::SpreadGeneric)
    }

    /// A TCX link, which takes long to detach.
    pub fn is_tcx(self) -> bool {
        matches!(self, Self::Tcx | Self::TcxEgress)
    }

    /// Where a filter of this kind is; `None` for kinds with links.
    pub fn filter(self) -> Option<TcAttachType> {
        match self {
            Self::Clsact => Some(TcAttachType::Ingress),
            Self::Egress => Some(TcAttachType::Egress),
            Self::Native | Self::Generic | Self::Tcx | Self::TcxEgress | Self::SpreadNative | Self::SpreadGeneric => {
                None
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::TcxEgress => "tcx-egress",
            Self::Egress => "egress",
            Self::SpreadNative => "spread-native",
            Self::SpreadGeneric => "spread-generic",
        }
    }
}

/// An instance's directory.
pub struct Pins {
    directory: PathBuf,
    /// The kernel releases the lock when the process ends in any way.
    _lock: Option<OwnedFd>,
}

impl Pins {
    /// Creates the directory and locks it for an agent in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When another process holds the lock, or when a datapath exists that this agent cannot adopt: this instance's in
    /// another network namespace, or another instance's in this one.
    pub fn claim(instance: &Instance) -> Result<Self, DatapathError> {
        mount_bpffs()?;
        let netns = this_namespace()?;
        for other in instances() {
            let pins = Self::at(&other);
            if other != *instance && pins.is_in(&netns) && pins.has_live_links() {
                return Err(DatapathError::OtherInstance { instance: other });
            }
        }
        let pins = Self::at(instance);
        make_directory(Path::new(ROOT))?;
        make_directory(&pins.directory)?;
        let pins = pins.locked(instance)?;
        match fs::read_link(pins.directory.join(NETNS)) {
            Ok(other) if other == netns => {}
            Ok(_) if pins.has_live_links() => return Err(DatapathError::OtherNamespace { instance: instance.clone() }),
            Ok(_) => {
                pins.clear_links();
                pins.forget(NETNS);
                pins.symlink(NETNS, &netns)?;
            }
            Err(_) => pins.symlink(NETNS, &netns)?,
        }
        Ok(pins)
    }

    /// Locks an existing directory.
    ///
    /// # Errors
    /// When an agent holds the lock.
    pub fn take(instance: &Instance) -> Result<Option<Self>, DatapathError> {
        let pins = Self::at(instance);
        if pins.directory.exists() { pins.locked(instance).map(Some) } else { Ok(None) }
    }

    /// Opens an existing directory without the lock, whether or not an agent runs.
    pub fn look(instance: &Instance) -> Option<Self> {
        Some(Self::at(instance)).filter(|pins| pins.directory.exists())
    }

    fn at(instance: &Instance) -> Self {
        Self { directory: Path::new(ROOT).join(instance.as_str()), _lock: None }
    }

    fn locked(self, instance: &Instance) -> Result<Self, DatapathError> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&self.directory, flags, Mode::empty())?;
            flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
            Ok(directory)
        };
        match open() {
            Ok(lock) => Ok(Self { _lock: Some(lock), ..self }),
            Err(Errno::WOULDBLOCK) => Err(DatapathError::InstanceRuns { instance: instance.clone() }),
            Err(error) => Err(DatapathError::pins(&self.directory, &error.into())),
        }
    }

    /// The same directory for another thread of the process that holds the lock.
    pub fn unlocked(&self) -> Self {
        Self { directory: self.directory.clone(), _lock: None }
    }

    /// The path of a file or directory.
    pub fn place(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn path(&self, kind: AttachmentKind, ifindex: u32) -> PathBuf {
        self.place(&format!("{}-{ifindex}", kind.name()))
    }

    /// Links and filters, by file name; their interfaces may be gone.
    pub fn links(&self) -> BTreeSet<(u32, AttachmentKind)> {
        let names = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let parse = |name: &str| {
            AttachmentKind::ALL.into_iter().find_map(|kind| {
                let ifindex = name.strip_prefix(kind.name())?.strip_prefix('-')?.parse().ok()?;
                Some((ifindex, kind))
            })
        };
        names.filter_map(|entry| parse(entry.file_name().to_str()?)).collect()
    }

    /// Links and filters whose interfaces still exist.
    pub fn live_links(&self) -> BTreeSet<(u32, AttachmentKind)> {
        self.links().into_iter().filter(|(ifindex, kind)| self.is_live(*kind, *ifindex)).collect()
    }

    fn is_live(&self, kind: AttachmentKind, ifindex: u32) -> bool {
        match kind {
            // The kernel removes such a filter with its interface; a reuse of the index cannot be detected.
            AttachmentKind::Clsact | AttachmentKind::Egress => self.is_here() && interface_name(ifindex).is_some(),
            _ => bpf::open(&self.path(kind, ifindex))
                .and_then(|link| bpf::interface(link.as_fd()))
                .is_ok_and(|found| found != 0),
        }
    }

    pub fn has_live_links(&self) -> bool {
        self.links().into_iter().any(|(ifindex, kind)| self.is_live(kind, ifindex))
    }

    fn is_in(&self, netns: &Path) -> bool {
        fs::read_link(self.place(NETNS)).is_ok_and(|link| link == netns)
    }

    /// Whether the datapath is in the network namespace of the calling thread.
    pub fn is_here(&self) -> bool {
        this_namespace().is_ok_and(|netns| self.is_in(&netns))
    }

    /// Records that our filter exists.
    pub fn mark_filter(&self, kind: AttachmentKind, interface: &str, ifindex: u32) -> Result<(), DatapathError> {
        let path = self.path(kind, ifindex);
        match symlink(interface, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(DatapathError::pins(&path, &error)),
            _ => Ok(()),
        }
    }

    pub fn has(&self, kind: AttachmentKind, ifindex: u32) -> bool {
        fs::symlink_metadata(self.path(kind, ifindex)).is_ok()
    }

    /// Detaches a program at once, and removes its file.
    pub fn detach(&self, kind: AttachmentKind, ifindex: u32) {
        let path = self.path(kind, ifindex);
        if let Some(hook) = kind.filter() {
            if self.is_here() {
                remove_filter(ifindex, hook);
            }
        } else if let Ok(link) = bpf::open(&path)
            && let Err(error) = bpf::detach(link.as_fd())
        {
            debug!("{}: not detached: {error}", path.display());
        }
        remove(&path);
    }

    /// Removes the file of a link: of one whose interface is gone, or for the kernel to detach the program afterwards.
    pub fn forget_link(&self, kind: AttachmentKind, ifindex: u32) {
        remove(&self.path(kind, ifindex));
    }

    fn forget(&self, name: &str) {
        remove(&self.place(name));
    }

    fn symlink(&self, name: &str, target: &Path) -> Result<(), DatapathError> {
        let path = self.place(name);
        symlink(target, &path).map_err(|error| DatapathError::pins(&path, &error))
    }

    fn clear_links(&self) {
        for (ifindex, kind) in self.links() {
            self.detach(kind, ifindex);
        }
    }

    /// Removes the directory.
    pub fn remove(self) -> Result<(), DatapathError> {
        let remove = || fs::remove_dir_all(&self.directory);
        // A trace may be pinning its tables there: for a moment, and only once.
        let removed = remove().or_else(|_| remove());
        removed.map_err(|error| DatapathError::pins(&self.directory, &error))?;
        // Fails if other instances have directories there.
        drop(fs::remove_dir(ROOT));
        Ok(())
    }
}

/// A path for a directory in bpffs without an instance.
pub fn of_test_run() -> Result<PathBuf, DatapathError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    mount_bpffs()?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(Path::new(BPFFS).join(format!("vpnhub-test-run-{}-{number}", std::process::id())))
}

/// Instances with a directory.
pub fn instances() -> Vec<Instance> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Name of an interface in the network namespace of the calling thread.
pub fn interface_name(ifindex: u32) -> Option<String> {
    // Any socket will do. The systemd unit permits no Internet sockets.
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    index_to_name(socket, ifindex).ok()
}

/// Creates a directory that only root can access; an existing one is left unchanged.
pub fn make_directory(path: &Path) -> Result<(), DatapathError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(DatapathError::pins(path, &error)),
        _ => Ok(()),
    }
}

/// A missing directory is no error.
pub fn remove_directory(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DatapathError::pins(path, &error)),
        _ => Ok(()),
    }
}

pub fn rename(from: &Path, to: &Path) -> Result<(), DatapathError> {
    fs::rename(from, to).map_err(|error| DatapathError::pins(from, &error))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!("{}: not removed: {error}", path.display());
    }
}

/// Leaves the `clsact` qdisc in place: others may use it now.
fn remove_filter(ifindex: u32, hook: TcAttachType) {
    let Some(interface) = interface_name(ifindex) else { return };
    let link = SchedClassifierLink::attached(&interface, hook, FILTER_PRIORITY, FILTER_HANDLE, None);
    let detached = link.map_err(|error| error.to_string()).and_then(|link| link.detach().map_err(|e| e.to_string()));
    if let Err(error) = detached {
        debug!(interface, "the filter is not removed: {error}");
    }
}

fn this_namespace() -> Result<PathBuf, DatapathError> {
    const PATH: &str = "/proc/thread-self/ns/net";
    fs::read_link(PATH).map_err(|error| DatapathError::pins(Path::new(PATH), &error))
}

/// Mounts bpffs at its usual path, if it is not mounted yet.
fn mount_bpffs() -> Result<(), DatapathError> {
    let is_mounted = || statfs(BPFFS).map(|statfs| statfs.f_type == BPFFS_MAGIC);
    if matches!(is_mounted(), Ok(true)) {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("bpf", BPFFS, "bpf", flags, c"mode=0700") {
        Ok(()) => {
            info!(name: "bpffs_mounted", "bpffs mounted at {BPFFS}");
            Ok(())
        }
        Err(error) => Err(DatapathError::Bpffs { cause: error.to_string() }),
    }
}
