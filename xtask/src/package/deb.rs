//! Builds the package: the agent, the generated files beside it, and cargo-deb, whose instructions are in
//! hub-userspace/Cargo.toml.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    crates::{self, Scope},
    sbom,
    static_program::Architecture,
};
use crate::{
    process::{self, Step},
    setup::{self, cargo_tool::CARGO_DEB},
};

pub const NAME: &str = "vpnhub";
/// Of packages whose builder gives no name. RFC 2606 reserves the address's domain: no letter arrives anywhere.
const NO_MAINTAINER: &str = "VPN-Hub built from source <nobody@vpnhub.invalid>";

/// Builds packages of one source.
pub struct Deb {
    /// cargo-deb.
    packer: PathBuf,
    /// All times in the package, in seconds since 1970.
    pub epoch: u64,
    /// The workspace's.
    pub release: String,
    /// With Debian's revision.
    version: String,
    architecture: Architecture,
    maintainer: String,
}

impl Deb {
    pub fn prepare(architecture: Architecture) -> Result<Self> {
        setup::compiler()?;
        super::commands(&[("dpkg-shlibdeps", "dpkg-dev"), ("xz", "xz-utils"), ("strip", "binutils")])?;
        let version = process::capture(process::cargo().args(["pkgid", "--package", "hub-userspace"]));
        let release = version.as_deref().and_then(|id| id.rsplit(['#', '@']).next()).context("cargo pkgid failed")?;
        let (release, version) = (release.to_owned(), format!("{release}-1"));
        Ok(Self {
            packer: setup::cargo_tool(&CARGO_DEB)?,
            epoch: epoch()?,
            release,
            version,
            architecture,
            maintainer: maintainer(env::var("DEBFULLNAME").ok().as_deref(), env::var("DEBEMAIL").ok().as_deref()),
        })
    }

    /// The package, built in `target`, or else in cargo's usual directory.
    pub fn build(&self, target: Option<&Path>) -> Result<PathBuf> {
        let mut cargo = process::cargo();
        // Both at once, of the whole workspace: with other features the agent would be compiled twice.
        cargo.args(["build", "--release", "--locked", "--bin", "vpnhub", "--example", "reference"]);
        if let Some(target) = target {
            cargo.env("CARGO_TARGET_DIR", target);
        }
        let status = process::status(&mut cargo)?;
        ensure!(status.success(), "the agent cannot be built");
        if self.is_foreign() {
            // Beside the program for this host, which writes the man pages.
            self.architecture.build()?;
        }
        self.pack(&self.version, target)
    }

    /// The program of the last [`build`](Self::build) once more, in a package that replaces that.
    pub fn with_newer_version(&self) -> Result<PathBuf> {
        self.pack(&format!("{}+test1", self.version), None)
    }

    fn is_foreign(&self) -> bool {
        self.architecture != Architecture::HOST
    }

    fn pack(&self, version: &str, target: Option<&Path>) -> Result<PathBuf> {
        self.generate(version, target)?;
        let mut command = Command::new(&self.packer);
        command.args(["--no-build", "--locked", "--package", "hub-userspace", "--deb-version", version]);
        command.args(["--maintainer", &self.maintainer, "--output"]);
        command.arg(directory()).current_dir(process::workspace()).env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        if self.is_foreign() {
            // Static, so that it depends on no library, and stripped by the linker.
            command.args(["--no-dbgsym", "--no-strip", "--target", self.architecture.triple()]);
        } else {
            command.args(["--no-dbgsym", "--strip"]);
        }
        if let Some(target) = target {
            command.env("CARGO_TARGET_DIR", target);
        }
        Step { title: "packing", log: "package", limit: None, quiet: false }.run(&mut command)?;
        let package = directory().join(format!("{NAME}_{version}_{}.deb", self.architecture.debian()));
        ensure!(package.is_file(), "cargo-deb has not made {}", package.display());
        Ok(package)
    }

    /// Files that come from others in the source.
    fn generate(&self, version: &str, target: Option<&Path>) -> Result<()> {
        let root = directory().join("root");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
        let built = target.map_or_else(process::release_dir, |target| Ok(target.join("release")))?;
        let mut reference = Command::new(built.join("examples/reference"));
        reference.args(["man", "bash", "zsh", "fish"].map(|name| root.join(name)));
        Step { title: "writing man pages and completions", log: "reference", limit: None, quiet: false }
            .run(&mut reference)?;
        let write = |name: &str, text: String| {
            let path = root.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        write("changelog.Debian", changelog(version, &self.maintainer, &date(self.epoch)?))?;
        let (triple, scope) = if self.is_foreign() {
            (self.architecture.triple().to_owned(), Scope::Package)
        } else {
            (process::host_triple().context("asking rustc for the host's triple")?, Scope::Workspace)
        };
        let crates = crates::of(&triple, scope)?;
        write("crates.txt", crates::list(&crates))?;
        write(sbom::FILE, sbom::text(&crates, &self.release, &triple, self.epoch)?)
    }
}

/// Whoever builds the package: name and address as Debian's own tools have them, if there is an address.
fn maintainer(name: Option<&str>, address: Option<&str>) -> String {
    match address {
        // The variable may have both.
        Some(address) if address.contains('<') => address.to_owned(),
        Some(address) => format!("{} <{address}>", name.unwrap_or(NAME)),
        None => NO_MAINTAINER.to_owned(),
    }
}

/// Debian's own changelog. The project's is a file beside it.
fn changelog(version: &str, maintainer: &str, date: &str) -> String {
    format!(
        "{NAME} ({version}) unstable; urgency=medium\n\n  \
         * For the changes see /usr/share/doc/{NAME}/changelog.gz.\n\n -- {maintainer}  {date}\n"
    )
}

pub fn directory() -> PathBuf {
    process::workspace().join("target/package")
}

/// `SOURCE_DATE_EPOCH`, or the time of git's last commit.
fn epoch() -> Result<u64> {
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let git =
        || process::capture(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(process::workspace()));
    let Some(epoch) = given.or_else(git) else {
        bail!(
            "there is no git repository with a commit: set SOURCE_DATE_EPOCH to the release's time, in seconds since 1970"
        )
    };
    epoch.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {epoch:?}: write seconds since 1970"))
}

/// As Debian's changelogs have it.
fn date(epoch: u64) -> Result<String> {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args(["--utc", "--rfc-email", &format!("--date=@{epoch}")]);
    process::capture(&mut date).context("date failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changelog_has_debian_format() {
        let text = changelog("0.2.0-1", NO_MAINTAINER, &date(1_700_000_000).unwrap());
        assert_eq!(text.lines().next(), Some("vpnhub (0.2.0-1) unstable; urgency=medium"));
        assert!(text.ends_with(&format!("\n -- {NO_MAINTAINER}  Tue, 14 Nov 2023 22:13:20 +0000\n")), "{text}");
    }

    #[test]
    fn builder_is_the_maintainer() {
        let of = |name: &str, address: &str| {
            maintainer(Some(name).filter(|name| !name.is_empty()), Some(address).filter(|address| !address.is_empty()))
        };
        assert_eq!(of("", ""), NO_MAINTAINER);
        assert_eq!(of("A B", ""), NO_MAINTAINER);
        assert_eq!(of("A B", "a@example.org"), "A B <a@example.org>");
        assert_eq!(of("", "a@example.org"), "vpnhub <a@example.org>");
        assert_eq!(of("A B", "C <c@example.org>"), "C <c@example.org>");
        assert!(NO_MAINTAINER.ends_with(".invalid>"));
    }
}
