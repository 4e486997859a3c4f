//! Receive queues in sysfs. Nothing else of it is written.
//!
//! `/sys` shows the network namespace of the process that mounted it, not of the reading one. Therefore the agent mounts
//! a sysfs of its own, which has no path. That needs `CAP_SYS_ADMIN`; without it `/sys` is used, if it shows the same
//! interface: index and link address are compared.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Dir, Mode, OFlags, ResolveFlags, open, openat, openat2},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::{Incarnation, mask::CpuMask};

/// Where it is usually mounted.
pub const VISIBLE: &str = "/sys";
/// `num_rx_queues` of an interface is at most this (`rtnl_create_link`, net/core/rtnetlink.c).
const MAX_QUEUES: usize = 4096;
/// Longest file: sysfs gives at most a page.
const MAX_FILE: u64 = 64 * 1024;
/// Attempts to open a path while other processes change mounts or names (openat2(2)).
const ATTEMPTS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum SpreadFailure {
    #[error("interface {0} does not exist")]
    Missing(String),
    #[error("{0} is a {1} interface, whose packets are distributed below it: name the NIC under it, as [underlay.NIC]")]
    Upper(String, String),
    #[error("{VISIBLE} shows another network namespace: mount a sysfs of this one, or give the agent CAP_SYS_ADMIN")]
    OtherNamespace,
    #[error("the receive queues of {0} have no rps_cpus: the kernel has no RPS (CONFIG_RPS)")]
    NoRps(String),
    #[error("cannot read {0} in sysfs: {1}")]
    Read(String, io::Error),
    #[error(
        "cannot write rps_cpus of {0}: {1}; let the agent write to /sys/class/net/{0}/queues (systemd: \
         ReadWritePaths=), or set it yourself"
    )]
    Write(String, io::Error),
    #[error(
        "rps_cpus is left alone, because it could not be put back later: cannot write {0} beside the agent's lock: {1}"
    )]
    Memory(String, io::Error),
}

/// A mount of sysfs.
#[derive(Debug)]
pub struct Sysfs {
    root: OwnedFd,
    /// It is known to show the network namespace of this process.
    is_own: bool,
}

impl Sysfs {
    /// Of the calling thread's network namespace, if possible.
    ///
    /// # Errors
    /// When there is none at all.
    pub fn open() -> io::Result<Self> {
        match mount() {
            Ok(root) => Ok(Self { root, is_own: true }),
            Err(_) => Self::at(Path::new(VISIBLE)),
        }
    }

    /// A sysfs that may show another network namespace.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn at(path: &Path) -> io::Result<Self> {
        let root = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, is_own: false })
    }

    /// # Errors
    /// When the file cannot be read.
    pub fn online_cpus(&self) -> Result<CpuMask, SpreadFailure> {
        let path = "devices/system/cpu/online";
        let text = read(&self.root, path).map_err(|error| SpreadFailure::Read(path.to_owned(), error))?;
        CpuMask::parse_list(&text).map_err(|error| SpreadFailure::Read(path.to_owned(), io::Error::other(error)))
    }

    /// Of these CPUs, those that RPS would use: without isolated ones, of `isolcpus` and `nohz_full`
    /// (`rps_cpumask_housekeeping`, net/core/net-sysfs.c). All of them if no others are left.
    pub fn usable_cpus(&self, online: &CpuMask) -> CpuMask {
        let listed = |name| {
            // Without isolation the files are empty, `(null)` or missing.
            let text = read(&self.root, &format!("devices/system/cpu/{name}")).unwrap_or_default();
            CpuMask::parse_list(&text).unwrap_or_default()
        };
        let usable = online.without(&listed("isolated")).without(&listed("nohz_full"));
        if usable.is_empty() { online.clone() } else { usable }
    }

    /// Whether a module is loaded.
    pub fn has_module(&self, name: &str) -> bool {
        directory(&self.root, &format!("module/{name}")).is_ok()
    }

    /// A file's text.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, path: &str) -> io::Result<String> {
        read(&self.root, path)
    }

    /// The receive queues of an interface.
    ///
    /// # Errors
    /// When this sysfs does not show the interface, or it cannot be read.
    pub fn queues(&self, name: &str, link: &Incarnation) -> Result<Queues, SpreadFailure> {
        let directory = directory(&self.interface(name, link)?, "queues");
        let directory = directory.map_err(|error| SpreadFailure::Read(name.to_owned(), error))?;
        Ok(Queues { interface: name.to_owned(), directory })
    }

    /// The directory of an interface.
    ///
    /// # Errors
    /// As [`Self::queues`].
    pub fn interface(&self, name: &str, link: &Incarnation) -> Result<OwnedFd, SpreadFailure> {
        let failure = |error: io::Error| SpreadFailure::Read(name.to_owned(), error);
        let stranger = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if !self.is_own => SpreadFailure::OtherNamespace,
            _ => failure(error),
        };
        // Names of the configuration are valid. This is the last place to ensure that no other path is opened.
        if name.is_empty() || [".", ".."].contains(&name) || name.contains('/') {
            return Err(failure(io::ErrorKind::InvalidInput.into()));
        }
        let interface = directory(&self.root, &format!("class/net/{name}")).map_err(stranger)?;
        let index = read(&interface, "ifindex").map_err(stranger)?;
        if index.parse() != Ok(link.index) {
            return Err(match self.is_own {
                // It was renamed or removed since.
                true => SpreadFailure::Missing(name.to_owned()),
                false => SpreadFailure::OtherNamespace,
            });
        }
        if let Some(mac) = link.mac.filter(|_| !self.is_own) {
            let shown = mac.map(|byte| format!("{byte:02x}")).join(":");
            if read(&interface, "address").map_err(failure)? != shown {
                return Err(SpreadFailure::OtherNamespace);
            }
        }
        Ok(interface)
    }
}

/// Names in a directory that may be a symbolic link. It may be outside `parent`, as a device's directory is.
///
/// # Errors
/// When it cannot be read.
pub fn names(parent: impl AsFd, path: &str) -> io::Result<Vec<String>> {
    let directory = openat(&parent, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
    }
    Ok(names)
}

/// A sysfs of the calling thread's network namespace, without a path.
fn mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The receive queues of one interface.
#[derive(Debug)]
pub struct Queues {
    interface: String,
    directory: OwnedFd,
}

impl Queues {
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The mask of each queue.
    ///
    /// # Errors
    /// When one cannot be read, or the kernel has no RPS.
    pub fn masks(&self) -> Result<BTreeMap<u32, CpuMask>, SpreadFailure> {
        self.first_masks(MAX_QUEUES)
    }

    /// The masks of at most so many queues.
    ///
    /// # Errors
    /// As [`Self::masks`].
    pub fn first_masks(&self, most: usize) -> Result<BTreeMap<u32, CpuMask>, SpreadFailure> {
        let failure = |error: io::Error| SpreadFailure::Read(self.interface.clone(), error);
        let mut masks = BTreeMap::new();
        for entry in Dir::read_from(&self.directory).map_err(|error| failure(error.into()))? {
            let entry = entry.map_err(|error| failure(error.into()))?;
            let number = entry.file_name().to_str().ok().and_then(|name| name.strip_prefix("rx-")?.parse().ok());
            if let Some(number) = number.filter(|_| masks.len() < most) {
                masks.insert(number, self.mask(number)?);
            }
        }
        Ok(masks)
    }

    /// # Errors
    /// As [`Self::masks`].
    pub fn mask(&self, queue: u32) -> Result<CpuMask, SpreadFailure> {
        let text = read(&self.directory, &file(queue)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SpreadFailure::NoRps(self.interface.clone()),
            _ => SpreadFailure::Read(self.interface.clone(), error),
        })?;
        CpuMask::parse(&text).map_err(|error| SpreadFailure::Read(self.interface.clone(), io::Error::other(error)))
    }

    /// Writes a mask; returns what the kernel made of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, queue: u32, mask: &CpuMask) -> Result<CpuMask, SpreadFailure> {
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::TRUNC;
            let mut file: File = beneath(&self.directory, &file(queue), flags, ResolveFlags::NO_SYMLINKS)?.into();
            file.write_all(mask.to_string().as_bytes())
        };
        write().map_err(|error| SpreadFailure::Write(self.interface.clone(), error))?;
        self.mask(queue)
    }
}

fn file(queue: u32) -> String {
    format!("rx-{queue}/rps_cpus")
}

/// Opens a path that never leaves `parent`. `/sys/class/net` has symbolic links to the devices.
fn beneath(parent: impl AsFd, path: &str, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        result = openat2(&parent, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    Ok(result?)
}

fn directory(parent: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    beneath(parent, path, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::empty())
}

/// A file's text without its newline.
fn read(parent: impl AsFd, path: &str) -> io::Result<String> {
    let mut text = String::new();
    let file: File = beneath(parent, path, OFlags::RDONLY, ResolveFlags::NO_SYMLINKS)?.into();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}
