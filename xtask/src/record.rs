//! The results of `cargo xtask setup`, on disk for the build scripts, so that a plain `cargo build` works
//! afterwards.
//!
//! Shared source: xtask writes the record, `build-support/ebpf.rs` reads it inside the build scripts of
//! hub-userspace and benches. It therefore uses nothing but std. Lines of `key=value`, values verbatim up
//! to the end of the line.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

/// Names a toolchain for the kernel programs, instead of the one that setup would choose.
pub const TOOLCHAIN_VARIABLE: &str = "VPNHUB_EBPF_TOOLCHAIN";

/// The compiler and linker that build the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// As `rustup run` takes it.
    pub toolchain: String,
    /// The compiler is not a nightly: `-Z` options need `RUSTC_BOOTSTRAP=1`.
    pub bootstrap: bool,
    /// bpf-linker, by its absolute path.
    pub linker: PathBuf,
    /// The compiler's identity when the record was made; another one may need another linker.
    pub rustc: String,
}

impl Record {
    /// The record's file in the cache directory.
    pub fn file(cache: &Path) -> PathBuf {
        cache.join("ebpf-toolchain")
    }

    /// `None` when a key is missing or a line is not understood: an older or broken record is as good as none.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut toolchain, mut bootstrap, mut linker, mut rustc) = (None, None, None, None);
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=')?;
            match key {
                "toolchain" => toolchain = Some(value.to_owned()),
                "bootstrap" => bootstrap = Some(value.parse().ok()?),
                "linker" => linker = Some(PathBuf::from(value)),
                "rustc" => rustc = Some(value.to_owned()),
                _ => return None,
            }
        }
        Some(Self { toolchain: toolchain?, bootstrap: bootstrap?, linker: linker?, rustc: rustc? })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Written by `cargo xtask setup`, read by the build scripts.")?;
        writeln!(f, "toolchain={}", self.toolchain)?;
        writeln!(f, "bootstrap={}", self.bootstrap)?;
        writeln!(f, "linker={}", self.linker.display())?;
        writeln!(f, "rustc={}", self.rustc)
    }
}

/// `$XDG_CACHE_HOME/vpnhub`, or `~/.cache/vpnhub`. `None` without a home directory.
pub fn cache_dir() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("vpnhub"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_round_trips() {
        let record = Record {
            toolchain: "vpnhub-ebpf".into(),
            bootstrap: true,
            linker: "/home/a b/=x/bpf-linker".into(),
            rustc: "rustc 1.96.0 (ac68faa20 2026-05-25), LLVM 22".into(),
        };
        assert_eq!(Record::parse(&record.to_string()), Some(record));
    }

    #[test]
    fn incomplete_or_foreign_record_is_none() {
        for text in ["", "toolchain=nightly\n", "toolchain\n", "color=red\n", "bootstrap=perhaps\n"] {
            assert_eq!(Record::parse(text), None, "{text:?}");
        }
    }
}
