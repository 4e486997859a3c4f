//! Tools that `cargo xtask setup` unpacks for the tests, without installing them.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The directory of these tools; `None` if neither `HOME` nor `XDG_CACHE_HOME` is set.
pub fn directory() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("vpnhub/tools"))
}

/// Where `cargo xtask setup` unpacks Debian's package `prometheus`.
pub fn prometheus() -> Option<PathBuf> {
    Some(directory()?.join("prometheus"))
}

/// Prometheus's `promtool`, in `PATH` or unpacked.
pub fn promtool() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).map(|directory| directory.join("promtool"));
    installed.chain(prometheus().map(|unpacked| unpacked.join("usr/bin/promtool"))).find(|tool| Path::is_file(tool))
}

/// The virtual environment that `cargo xtask setup` makes for programs of Python's packages.
pub fn python_environment() -> Option<PathBuf> {
    Some(directory()?.join("python"))
}

/// A program of Python's packages, such as `ansible-playbook`, in that environment.
pub fn python(name: &str) -> Option<PathBuf> {
    Some(python_environment()?.join("bin").join(name)).filter(|program| program.is_file())
}
