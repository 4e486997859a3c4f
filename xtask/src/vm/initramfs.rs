//! The guest's first files, as the archive that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process;

const INIT: &[u8] = include_bytes!("init");
const DIRECTORIES: [&str; 9] = ["bin", "modules", "proc", "sys", "dev", "host", "layer", "new", "shared"];

/// Modes.
pub const DIRECTORY: u32 = 0o040_755;
pub const PROGRAM: u32 = 0o100_755;
pub const FILE: u32 = 0o100_644;

/// The archive: `init`, a shell for it, and modules that it loads in this order.
pub fn archive(busybox: &Path, modules: &[impl AsRef<Path>]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.add(directory, DIRECTORY, &[]);
    }
    archive.add("init", PROGRAM, INIT);
    archive.add("bin/busybox", PROGRAM, &read(busybox)?);
    for (module, number) in modules.iter().zip(10..) {
        let module = module.as_ref();
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{number}-{name}"), FILE, &read(module)?);
    }
    Ok(archive.end())
}

/// The files of modules and of all that they need, in the order to load them in. `root` has `lib/modules/RELEASE`, with an
/// index by depmod.
pub fn modules_of(root: &Path, release: &str, modules: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in modules {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(root).args(["-S", release, "--show-depends", module]);
        let said = process::capture(&mut command).with_context(|| format!("modprobe does not find {module}"))?;
        // Built-in ones are called `builtin`.
        for file in said.lines().filter_map(|line| line.trim().strip_prefix("insmod ")).map(PathBuf::from) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// In cpio's form "newc": a header of hexadecimal numbers, the name, the bytes, each padded to 4.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(data.len()).expect("files of an initramfs are small");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        // Inode, mode, user, group, links, time, size, device and special device (major, minor), name's size, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    pub fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_entries_have_newc_header_and_padding() {
        let mut archive = Archive::default();
        archive.add("a", FILE, b"hello");
        archive.add("bc", DIRECTORY, &[]);
        let first =
            "070701000000010000 81a4".replace(' ', "") + "00000000000000000000000100000000000000050000000000000000";
        assert!(archive.bytes.starts_with(first.as_bytes()), "{}", String::from_utf8_lossy(&archive.bytes));
        // 110 bytes of header, 2 of name, 5 of data and 3 of padding.
        assert_eq!(&archive.bytes[110..120], b"a\0hello\0\0\0");
        assert_eq!(&archive.bytes[120..126], b"070701");
        assert_eq!(archive.bytes.len() % 4, 0);
    }
}
