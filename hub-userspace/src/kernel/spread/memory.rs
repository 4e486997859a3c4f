//! What agents have done to receive queues, in a file that outlives them: the next agent, or `vpnhub unload`, puts it
//! back. Like the masks themselves it is lost at a reboot.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Incarnation, decide::OwnMask};

/// Longest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// Own masks by interface index and queue.
type Interfaces = BTreeMap<u32, Remembered>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub link: Incarnation,
    pub queues: BTreeMap<u32, OwnMask>,
}

/// The file and its contents.
#[derive(Debug)]
pub struct Memory {
    /// Only root can write to it.
    directory: OwnedFd,
    name: String,
    pub interfaces: Interfaces,
}

impl Memory {
    /// Reads the file. One that cannot be read counts as empty, so that its masks are other programs'.
    pub fn open(directory: OwnedFd, name: String) -> Self {
        let interfaces = read(&directory, &name).unwrap_or_else(|error| {
            warn!(name: "rps_not_restored",
                "masks of an earlier agent in rps_cpus are not put back: cannot read {name} beside its lock: {error}"
            );
            Interfaces::new()
        });
        Self { directory, name, interfaces }
    }

    /// Sets what has been done to an interface.
    pub fn set(&mut self, link: &Incarnation, queues: BTreeMap<u32, OwnMask>) {
        match queues.is_empty() {
            true => drop(self.interfaces.remove(&link.index)),
            false => drop(self.interfaces.insert(link.index, Remembered { link: link.clone(), queues })),
        }
    }

    /// Replaces the file; without contents it is removed.
    ///
    /// # Errors
    /// When it cannot be written. The old file stays.
    pub fn save(&self) -> io::Result<()> {
        if self.interfaces.is_empty() {
            return match unlinkat(&self.directory, self.name.as_str(), AtFlags::empty()) {
                Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec(&self.interfaces)?;
        let new = format!("{}.new", self.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File = openat(&self.directory, new.as_str(), flags, Mode::RUSR | Mode::WUSR)?.into();
        file.write_all(&text)?;
        renameat(&self.directory, new.as_str(), &self.directory, self.name.as_str())?;
        Ok(())
    }

    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<Interfaces> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::NOENT) => return Ok(Interfaces::new()),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
