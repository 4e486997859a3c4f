//! The agent linked with musl: one file that needs nothing of its host, also for another architecture than this host's.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::process::{self, Step};

/// An architecture, by Debian's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The compiler's name for the architecture with musl.
    pub fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Builds the agent. The kernel programs inside are the same for all architectures.
    pub fn build(self) -> Result<PathBuf> {
        let triple = self.triple();
        // Cheap if it is there. Not only for rustup: a distribution's compiler has the library as a package.
        if process::capture(Command::new("rustup").args(["target", "add", triple]).stderr(Stdio::null())).is_none() {
            eprintln!("rustup cannot add the target {triple}: the build fails unless the compiler has it anyway");
        }
        let mut cargo = process::cargo();
        cargo.args([
            "build",
            "--release",
            "--locked",
            "--package",
            "hub-userspace",
            "--bin",
            "vpnhub",
            "--target",
            triple,
        ]);
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        // The compiler's own linker: the program has no code in C, so no C compiler for the architecture is needed.
        cargo.env(format!("CARGO_TARGET_{}_LINKER", triple.replace('-', "_").to_uppercase()), "rust-lld");
        let title = format!("building the agent for {triple} (ten minutes the first time)");
        Step { title: &title, log: "static", limit: None, quiet: false }.run(&mut cargo)?;
        let program = process::workspace().join("target").join(triple).join("release/vpnhub");
        ensure!(program.is_file(), "cargo has not made {}", program.display());
        Ok(program)
    }
}
