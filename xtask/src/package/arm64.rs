//! The static program on an arm64 kernel: an emulated machine without a disk, whose first process is a script.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::Files;
use crate::{
    process::{self, Step},
    setup::host,
    vm::initramfs::{Archive, DIRECTORY, FILE, PROGRAM, modules_of},
};

const QEMU: &str = "qemu-system-aarch64";
/// The script, and the hub that it starts.
const INIT: &str = include_str!("arm64.sh");
const CONFIG: &str = include_str!("arm64.toml");
/// Debian's release, and what is unpacked of it.
const RELEASE: &str = "bookworm";
const PACKAGES: &str = "linux-image-cloud-arm64,busybox-static";
/// Modules that the kernel itself would load if there were a modprobe: tunnels, clsact, the parts of nftables in the table.
const MODULES: [&str; 7] =
    ["ip_gre", "sch_ingress", "cls_bpf", "nf_tables", "nft_limit", "nft_objref", "nft_reject_inet"];
/// The script writes this when all of it has passed.
const PASSED: &str = "arm64: passed";
const LIMIT: Duration = Duration::from_secs(600);

/// Boots Debian's arm64 kernel with the program. Needs root, as mmdebstrap does.
pub fn boot(program: &Path) -> Result<()> {
    ensure!(host::is_root(), "unpacking the machine's packages needs root: run it as root");
    super::commands(&[(QEMU, "qemu-system-arm"), ("mmdebstrap", "mmdebstrap"), ("depmod", "kmod")])?;
    let root = unpack()?;
    let kernel = boot_file(&root)?;
    let release = kernel.file_name().and_then(|name| name.to_str()?.strip_prefix("vmlinuz-")).context("its release")?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));

    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "proc", "run", "sys"] {
        archive.add(directory, DIRECTORY, &[]);
    }
    archive.add("init", PROGRAM, INIT.as_bytes());
    archive.add("vpnhub.toml", FILE, CONFIG.as_bytes());
    archive.add("bin/busybox", PROGRAM, &read(&root.join("bin/busybox"))?);
    archive.add("bin/vpnhub", PROGRAM, &read(program)?);
    for (module, number) in modules_of(&root, release, &MODULES)?.iter().zip(100..) {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{number}-{name}"), FILE, &read(module)?);
    }
    let files = Files::create("arm64")?;
    let initramfs = files.0.join("initramfs");
    fs::write(&initramfs, archive.end()).context("writing the machine's files")?;

    eprintln!("booting Linux {release} under QEMU (a minute)");
    let said = files.0.join("said");
    let mut qemu = Command::new(QEMU);
    qemu.args([
        "-machine",
        "virt",
        "-cpu",
        "max,pauth-impdef=on",
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-m",
        "1024",
    ]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none"])
        .arg("-kernel")
        .arg(&kernel)
        .arg("-initrd")
        .arg(&initramfs);
    qemu.args(["-append", "console=ttyAMA0 loglevel=2 panic=-1 cryptomgr.notests rcupdate.rcu_expedited=1"]);
    qemu.arg("-serial").arg(format!("file:{}", said.display()));
    let ended = process::status_within(qemu.stdin(Stdio::null()), LIMIT)?;
    let said = fs::read_to_string(&said).unwrap_or_default();
    print!("{said}");
    ensure!(ended.is_some(), "the machine took over {} s", LIMIT.as_secs());
    ensure!(said.lines().any(|line| line.trim() == PASSED), "the test on arm64 failed: see above");
    Ok(())
}

/// The packages' files, unpacked the first time. Nothing of them runs here.
fn unpack() -> Result<PathBuf> {
    let root = process::workspace().join("target/clean-machine/arm64");
    if root.is_dir() {
        return Ok(root);
    }
    let new = root.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
    }
    let cache = new.parent().context("a directory below target")?;
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let mut make = Command::new("mmdebstrap");
    make.args(["--architectures=arm64", "--variant=extract", "--format=directory", "--include", PACKAGES, RELEASE]);
    let title = "unpacking Debian's arm64 kernel (150 MB to fetch)";
    Step { title, log: "mmdebstrap", limit: Some(Duration::from_secs(1800)), quiet: false }.run(make.arg(&new))?;
    let release = boot_file(&new)?;
    let release = release.file_name().unwrap_or_default().to_string_lossy().replacen("vmlinuz-", "", 1);
    let index = Step { title: "indexing its modules", log: "kernel", limit: None, quiet: false };
    index.run(Command::new("depmod").arg("-b").arg(&new).arg(release))?;
    fs::rename(&new, &root).with_context(|| format!("naming {}", root.display()))?;
    Ok(root)
}

fn boot_file(root: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(root.join("boot")).context("the machine has no /boot")?.filter_map(Result::ok);
    let kernel = files.find(|file| file.file_name().to_string_lossy().starts_with("vmlinuz-"));
    kernel.map(|file| file.path()).context("the machine has no kernel")
}
