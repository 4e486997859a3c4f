//! The disk of a clean Debian machine, made by mmdebstrap once.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::disk_of;
use crate::process::{self, Step};

/// systemd, the kernel, what the test runs, and what the package depends on or recommends: the machine has no network.
const PACKAGES: &str = "systemd-sysv,udev,dbus,kmod,iproute2,iputils-ping,procps,man-db,nftables,linux-image-cloud-amd64,\
                        initramfs-tools,charon-systemd,strongswan-swanctl,libcharon-extra-plugins,\
                        libstrongswan-extra-plugins";

/// The modules for the root file system only: a larger initramfs takes a minute to unpack.
const INITRAMFS: &str = "mkdir -p \"$1/etc/initramfs-tools/conf.d\" && \
                         echo MODULES=list > \"$1/etc/initramfs-tools/conf.d/guest\" && \
                         printf 'virtio_pci\\nvirtio_blk\\next4\\n' > \"$1/etc/initramfs-tools/modules\"";

const SERVICE: &str = "\
[Service]
ExecStart=/bin/sh -c 'mkdir -p /media && mount -o ro /dev/vdb /media && exec /bin/sh /media/guest.sh'
StandardOutput=file:/dev/ttyS1
StandardError=inherit
";

/// A disk, and the kernel that is installed on it.
pub struct Image {
    dir: PathBuf,
}

impl Image {
    /// From the cache in target/clean-machine, or made anew if the instructions have changed.
    pub fn ensure(release: &str) -> Result<Self> {
        let cache = process::workspace().join("target/clean-machine");
        let image = Self { dir: cache.join(release) };
        let recipe = format!("{PACKAGES}\n{INITRAMFS}\n{SERVICE}");
        let record = image.dir.join("recipe");
        if fs::read_to_string(&record).is_ok_and(|made_by| made_by == recipe) {
            return Ok(image);
        }
        remove(&image.dir)?;
        fs::create_dir_all(&image.dir).with_context(|| format!("creating {}", image.dir.display()))?;
        let root = image.dir.join("root");
        let mut make = Command::new("mmdebstrap");
        make.args(["--variant=minbase", "--format=directory", "--include", PACKAGES, "--essential-hook", INITRAMFS]);
        let title = format!("making a Debian {release} (200 MB to fetch)");
        let limit = Some(Duration::from_secs(1800));
        Step { title: &title, log: "mmdebstrap", limit, quiet: false }.run(make.arg(release).arg(&root))?;
        prepare(&root).context("preparing the machine")?;
        for (name, to) in [("vmlinuz-", image.kernel()), ("initrd.img-", image.initrd())] {
            fs::copy(boot_file(&root, name)?, to).context("copying the kernel")?;
        }
        disk_of(&root, &image.disk(), "2G")?;
        remove(&root)?;
        fs::write(&record, recipe).with_context(|| format!("writing {}", record.display()))?;
        Ok(image)
    }

    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// The log of the last boot.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }
}

/// A service runs the test at each boot, beside the others: the boot does not wait for it.
fn prepare(root: &Path) -> Result<()> {
    let units = root.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(units.join("clean-machine.service"), SERVICE)?;
    symlink("../clean-machine.service", wants.join("clean-machine.service"))?;
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
    fs::write(root.join("etc/hostname"), "hub\n")?;
    Ok(())
}

fn boot_file(root: &Path, start: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(root.join("boot")).context("the machine has no /boot")?.filter_map(Result::ok);
    let file = files.find(|file| file.file_name().to_string_lossy().starts_with(start));
    file.map(|file| file.path()).with_context(|| format!("no {start} in the machine's /boot"))
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}
