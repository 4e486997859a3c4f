//! Debian's and Ubuntu's packages.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::{host, plan};
use crate::process::{self, Step};

/// Whether this machine has apt.
pub fn available() -> bool {
    host::command("apt-get").is_some()
}

/// Installs `packages`, refreshing apt's lists first when it does not know one of them.
pub fn install(title: &str, packages: &[&str]) -> Result<()> {
    if candidates(packages).len() < packages.len() {
        update()?;
        let known = candidates(packages).len();
        ensure!(known == packages.len(), "this distribution lacks one of {}", packages.join(", "));
    }
    // An installation that was interrupted leaves its journal, and apt refuses to go on before this.
    if fs::read_dir("/var/lib/dpkg/updates").is_ok_and(|mut journal| journal.next().is_some()) {
        let mut configure = as_root("dpkg")?;
        configure.args(["--configure", "-a"]);
        step("finishing an interrupted installation", "dpkg").run(&mut configure)?;
    }
    let mut command = apt_get()?;
    command.args(["install", "--no-install-recommends", "-y"]).args(packages);
    step(title, "apt-install").run(&mut command)
}

/// strongSwan's daemon, its tool, and the plugin for ESP without the kernel's.
const STRONGSWAN: [&str; 5] = [
    "charon-systemd",
    "strongswan-swanctl",
    "libcharon-extra-plugins",
    "libstrongswan-extra-plugins",
    "libstrongswan-standard-plugins",
];

/// Installs strongSwan. Tests and demo have daemons of their own, and its service would take the host's UDP 500.
pub fn install_strongswan() -> Result<()> {
    install_daemon("installing strongSwan", &STRONGSWAN, "strongswan.service")
}

/// Installs the BIRD routing daemon, for tests of BGP. Its service would take the host's TCP 179.
pub fn install_bird() -> Result<()> {
    install_daemon("installing BIRD", &["bird2"], "bird.service")
}

/// Installs the FRR routing daemons, for tests of BGP.
pub fn install_frr() -> Result<()> {
    install_daemon("installing FRR", &["frr"], "frr.service")
}

/// Installs a daemon, of the first package, without its service being started, now or at the next boot.
///
/// Where systemd runs the unit is masked while packages are installed, which keeps their scripts from starting it, and
/// disabled after. To enable the service: `systemctl enable --now UNIT`.
fn install_daemon(title: &str, packages: &[&str], unit: &str) -> Result<()> {
    // If the daemon is installed, the service is already managed.
    let holds = Path::new("/run/systemd/system").exists() && !installed(&packages[..1]);
    let systemctl = |verb: &str| -> Result<()> {
        let said = as_root("systemctl")?.args(["--quiet", verb, unit]).output().context("systemctl")?;
        ensure!(said.status.success(), "`systemctl {verb} {unit}`: {}", String::from_utf8_lossy(&said.stderr));
        Ok(())
    };
    if holds {
        systemctl("mask")?;
    }
    let result = install(title, packages);
    if holds {
        // In this order: a masked unit cannot be disabled. Unmasking starts nothing.
        systemctl("unmask")?;
        if result.is_ok() {
            systemctl("disable")?;
        }
    }
    result
}

/// Fetches packages, as `NAME` or `NAME=VERSION`, and unpacks them into `dir`: nothing is installed. `work` is a directory for
/// the meantime. Whole or not at all: `dir` gets its name when it is complete.
pub fn unpack(title: &str, packages: &[&str], dir: &Path, work: &Path) -> Result<()> {
    let remove = |path: &Path| match path.exists() {
        true => fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display())),
        false => Ok(()),
    };
    remove(work)?;
    fs::create_dir_all(work).with_context(|| format!("creating {}", work.display()))?;
    step(title, "apt-download")
        .run(Command::new("apt-get").args(["-q", "download"]).args(packages).current_dir(work))?;
    let unpacked = work.join("unpacked");
    let archives = fs::read_dir(work)?.filter_map(Result::ok).map(|entry| entry.path());
    let archives: Vec<_> = archives.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    ensure!(archives.len() == packages.len(), "apt-get did not download all of {}", packages.join(", "));
    for archive in archives {
        step("unpacking", "dpkg").run(Command::new("dpkg").arg("-x").arg(archive).arg(&unpacked))?;
    }
    remove(dir)?;
    fs::rename(&unpacked, dir).with_context(|| format!("naming {}", dir.display()))?;
    // Failing to remove the packages is no failure.
    let _ = fs::remove_dir_all(work);
    Ok(())
}

/// The version of a package that is installed.
pub fn version(package: &str) -> Option<String> {
    let query = ["--show", "--showformat=${Version}", package];
    installed(&[package]).then(|| process::capture(Command::new("dpkg-query").args(query))).flatten()
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    let mut command = apt_get()?;
    command.arg("update");
    step("refreshing apt's package lists", "apt-update").run(&mut command)
}

/// Whether all of `packages` are installed.
pub fn installed(packages: &[&str]) -> bool {
    let query = ["--show", "--showformat=${db:Status-Status} "];
    let said = process::capture(Command::new("dpkg-query").args(query).args(packages));
    // It fails when it has never heard of one.
    said.is_some_and(|said| said.split_whitespace().all(|status| status == "installed"))
}

/// The compiler packages of the distribution, and their versions.
pub fn compiler() -> plan::Debian {
    let version = installed(&COMPILER).then(|| version(COMPILER[0]));
    plan::Debian {
        installed: version.flatten().and_then(|version| plan::version(&version)),
        candidate: candidates(&COMPILER[..1]).first().and_then(|version| plan::version(version)),
    }
}

/// The recent compiler that Debian packages for its browsers, the library's source, and cargo.
pub const COMPILER: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];

/// The versions that apt would install, of those `packages` that it knows. In one call: each takes half a second.
fn candidates(packages: &[&str]) -> Vec<String> {
    let said = process::capture(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(packages));
    said.unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
        .collect()
}

fn step<'a>(title: &'a str, log: &'a str) -> Step<'a> {
    Step { title, log, limit: Some(Duration::from_secs(900)), quiet: false }
}

fn apt_get() -> Result<Command> {
    let mut command = as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get"]);
    // Another apt may be at work, as on a machine that was just started: wait for it.
    command.args(["-q", "-o", "DPkg::Lock::Timeout=120"]);
    Ok(command)
}

/// `program` as root, with sudo where need be.
fn as_root(program: &str) -> Result<Command> {
    if host::is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = host::command("sudo") else {
        bail!("installing packages needs root: run `cargo xtask setup` as root, or install sudo");
    };
    // Asks for the password now, while nothing else writes to the terminal.
    let asked = process::status(Command::new(&sudo).arg("--validate")).context("sudo")?;
    ensure!(asked.success(), "installing packages needs root, and sudo was refused");
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}
