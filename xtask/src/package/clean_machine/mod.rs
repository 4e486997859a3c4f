//! The package on machines that have nothing of this project: Debian with systemd, booted under QEMU.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::Files;
use crate::{
    process::{self, Step},
    setup::host,
};
use image::Image;

mod image;

/// Debian 12 and 13.
pub const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// The test itself. A service of the guest runs it at each boot.
const SCRIPT: &str = include_str!("guest.sh");
/// What the script writes when all of it has passed.
const PASSED: &str = "passed";

const QEMU: &str = "qemu-system-x86_64";
/// Two boots, and all that is in between, on an emulated CPU.
const LIMIT: Duration = Duration::from_secs(1800);
const MEMORY: &str = "1024";
/// Mitigations and self-tests only cost time here.
const KERNEL_ARGUMENTS: &str = "root=/dev/vda rw console=ttyS0 loglevel=3 mitigations=off net.ifnames=0 cryptomgr.notests \
                                rcupdate.rcu_expedited=1 tsc=reliable systemd.show_status=false";

/// Tests the package, and its upgrade to `newer`, on each release.
pub fn run(releases: &[String], package: &Path, newer: &Path) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machine supports x86-64 hosts only");
    }
    ensure!(host::is_root(), "making the machine's disk needs root: run it as root");
    super::commands(&[(QEMU, "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")])?;
    for release in releases {
        let image = Image::ensure(release)?;
        let started = Instant::now();
        eprintln!("booting a clean Debian {release}; console: {}", image.console().display());
        boot(&image, package, newer).with_context(|| format!("on Debian {release}"))?;
        println!("Debian {release}: passed in {} s", started.elapsed().as_secs());
    }
    Ok(())
}

fn boot(image: &Image, package: &Path, newer: &Path) -> Result<()> {
    let files = Files::create("clean-machine")?;
    let media = files.0.join("media");
    fs::create_dir(&media).context("creating the guest's second disk")?;
    fs::write(media.join("guest.sh"), SCRIPT).context("writing the guest's script")?;
    for (from, name) in [(package, "first.deb"), (newer, "second.deb")] {
        fs::copy(from, media.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    let disk = files.0.join("media.img");
    disk_of(&media, &disk, "256M")?;

    let result = files.0.join("result");
    let mut qemu = Command::new(QEMU);
    // No KVM: many machines that this runs on are virtual themselves.
    qemu.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        MEMORY,
        "-nodefaults",
        "-display",
        "none",
    ]);
    qemu.args(["-device", "virtio-rng-pci"]);
    // The guest's writes last until QEMU ends: longer than its reboot.
    qemu.arg("-drive").arg(drive(&image.disk(), "snapshot=on,cache=unsafe"));
    qemu.arg("-drive").arg(drive(&disk, "readonly=on"));
    // Console, the test's report, its result.
    qemu.arg("-serial").arg(format!("file:{}", image.console().display())).args(["-serial", "stdio"]);
    qemu.arg("-serial").arg(format!("file:{}", result.display()));
    qemu.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initrd()).args(["-append", KERNEL_ARGUMENTS]);
    let ended = process::status_within(qemu.stdin(Stdio::null()), LIMIT)?;
    ensure!(ended.is_some(), "the guest took over {} s", LIMIT.as_secs());
    let said = fs::read_to_string(&result).unwrap_or_default();
    ensure!(said.trim() == PASSED, "the test failed: see above, and {}", image.console().display());
    Ok(())
}

fn drive(path: &Path, options: &str) -> String {
    format!("file={},if=virtio,format=raw,{options}", path.display().to_string().replace(',', ",,"))
}

/// A file system with a directory's content.
fn disk_of(dir: &Path, disk: &Path, size: &str) -> Result<()> {
    if disk.exists() {
        fs::remove_file(disk).with_context(|| format!("removing {}", disk.display()))?;
    }
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-O", "^has_journal", "-d"]).arg(dir).arg(disk).arg(size);
    Step { title: "making a disk", log: "mkfs", limit: None, quiet: false }.run(&mut make)
}
