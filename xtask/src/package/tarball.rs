//! The tarball, for distributions without Debian's packages: what the package has, with a static program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{crates, deb, sbom, static_program::Architecture};
use crate::{
    files::copy,
    process::{self, Step},
};

/// From and to, in the source and in the tarball; a directory with all its files.
const FILES: [(&str, &str); 14] = [
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-GPL2", "LICENSE-GPL2"),
    ("docs", "docs"),
    ("benches/forward.svg", "benches/forward.svg"),
    ("examples", "examples"),
    ("contrib/ansible", "contrib/ansible"),
    ("contrib/prometheus", "contrib/prometheus"),
    ("contrib/grafana", "contrib/grafana"),
    ("contrib/systemd", "systemd"),
    ("contrib/debian/vpnhub.sysusers", "sysusers.d/vpnhub.conf"),
    ("contrib/debian/vpnhub.toml", "etc/vpnhub.toml"),
];
/// Files that [`deb`] has made for the package.
const MADE: [(&str, &str); 4] =
    [("man", "man1"), ("bash", "completions/bash"), ("zsh", "completions/zsh"), ("fish", "completions/fish")];

/// Packs the program and the files that the package of the same source has left in target/package/root. `epoch` is the
/// time of all files, in seconds since 1970: equal sources give an equal tarball.
pub fn pack(program: &Path, architecture: Architecture, version: &str, epoch: u64) -> Result<PathBuf> {
    let name = format!("{}-{version}-{}", deb::NAME, architecture.triple());
    let directory = deb::directory();
    let root = directory.join(&name);
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    copy(program, &root.join("vpnhub"))?;
    for (from, to) in FILES {
        copy(&process::workspace().join(from), &root.join(to))?;
    }
    for (from, to) in MADE {
        copy(&directory.join("root").join(from), &root.join(to))?;
    }
    let write = |file: &str, text: String| {
        let path = root.join(file);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    // Of this program: the package's may be for another target.
    let crates = crates::of(architecture.triple(), crates::Scope::Package)?;
    write("crates.txt", crates::list(&crates))?;
    write(sbom::FILE, sbom::text(&crates, version, architecture.triple(), epoch)?)?;
    let tarball = directory.join(format!("{name}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rwX,go+rX,go-w", "--format=gnu"]);
    tar.arg(format!("--mtime=@{epoch}")).args(["--use-compress-program", "xz --threads=1", "--create", "--file"]);
    tar.arg(&tarball).arg("--directory").arg(&directory).arg(&name);
    Step { title: "packing the tarball", log: "tarball", limit: None, quiet: false }.run(&mut tar)?;
    ensure!(tarball.is_file(), "tar has not made {}", tarball.display());
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    Ok(tarball)
}
