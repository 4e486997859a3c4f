//! Builds the package: the agent, the generated files beside it, and cargo-deb, whose instructions are in
//! hub-userspace/Cargo.toml.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::static_program::Architecture;
use crate::{
    process::{self, Step},
    setup,
};

pub const NAME: &str = "vpnhub";
const MAINTAINER: &str = "The VPN-Hub authors <vpnhub@localhost.invalid>";

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
}

impl Deb {
    pub fn prepare(architecture: Architecture) -> Result<Self> {
        setup::compiler()?;
        super::commands(&[("dpkg-shlibdeps", "dpkg-dev"), ("xz", "xz-utils"), ("strip", "binutils")])?;
        let version = process::capture(process::cargo().args(["pkgid", "--package", "hub-userspace"]));
        let release = version.as_deref().and_then(|id| id.rsplit(['#', '@']).next()).context("cargo pkgid failed")?;
        let (release, version) = (release.to_owned(), format!("{release}-1"));
        Ok(Self { packer: setup::cargo_deb()?, epoch: epoch()?, release, version, architecture })
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
        command.args(["--maintainer", MAINTAINER, "--output"]);
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
        write("changelog.Debian", changelog(version, &date(self.epoch)?))?;
        write("crates.txt", crates()?)
    }
}

/// Debian's own changelog. The project's is a file beside it.
fn changelog(version: &str, date: &str) -> String {
    format!(
        "{NAME} ({version}) unstable; urgency=medium\n\n  \
         * For the changes see /usr/share/doc/{NAME}/changelog.gz.\n\n -- {MAINTAINER}  {date}\n"
    )
}

/// The crates inside the program, each with version and licence.
fn crates() -> Result<String> {
    let mut cargo = process::cargo();
    cargo.args(["tree", "--locked", "--package", "hub-userspace", "--edges", "normal", "--prefix", "none"]);
    let tree = process::capture(cargo.args(["--format", "{p}: {l}"])).context("cargo tree failed")?;
    // Paths of this project's own packages follow their versions.
    let line = |line: &str| {
        line.split_once(" (/").map_or(line.to_owned(), |(name, rest)| {
            format!("{name}{}", rest.split_once(')').map_or("", |(_, licence)| licence))
        })
    };
    let mut lines: Vec<String> = tree.lines().map(|text| line(text.trim_end_matches(" (*)"))).collect();
    lines.sort();
    lines.dedup();
    Ok(lines.join("\n") + "\n")
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
        let text = changelog("0.2.0-1", &date(1_700_000_000).unwrap());
        assert_eq!(text.lines().next(), Some("vpnhub (0.2.0-1) unstable; urgency=medium"));
        assert!(text.ends_with(&format!("\n -- {MAINTAINER}  Tue, 14 Nov 2023 22:13:20 +0000\n")), "{text}");
    }

    #[test]
    fn crate_list_has_licences_and_no_paths() {
        let _alone = process::tests::alone();
        let crates = crates().unwrap();
        assert!(crates.lines().any(|line| line.starts_with("aya v") && line.contains("MIT")), "{crates}");
        assert!(crates.lines().any(|line| line.starts_with("hub-common v") && line.contains(": ")), "{crates}");
        assert!(!crates.contains(process::workspace().to_str().unwrap()), "{crates}");
    }
}
