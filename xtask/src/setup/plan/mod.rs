//! Which compiler builds the kernel programs: a described machine in, ways to try out.
//!
//! The target `bpfel-unknown-none` ships no `core`, so every way needs the library's source (`-Z build-std`):
//! a nightly takes `-Z` as it is, any other compiler with `RUSTC_BOOTSTRAP=1`.

/// The oldest compiler that takes this workspace (`rust-version` in Cargo.toml).
pub const OLDEST: (u32, u32) = (1, 88);

/// The name that setup gives to the distribution's compiler within rustup.
pub const LINKED: &str = "vpnhub-ebpf";

/// Output of `rustc -vV`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rustc {
    /// The first line.
    pub title: String,
    pub release: (u32, u32),
    pub nightly: bool,
    /// Major version of its LLVM; bpf-linker must understand the bitcode of that.
    pub llvm: u32,
    /// Target triple of the host.
    pub host: String,
}

impl Rustc {
    pub fn parse(verbose_version: &str) -> Option<Self> {
        let field = |name| verbose_version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let release = field("release")?;
        Some(Self {
            title: verbose_version.lines().next()?.to_owned(),
            release: version(release)?,
            nightly: release.ends_with("-nightly"),
            llvm: field("LLVM version")?.split('.').next()?.parse().ok()?,
            host: field("host")?.to_owned(),
        })
    }
}

/// Major and minor of `1.96.0+dfsg1-1~deb12u2` or `1.97.0-nightly`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A toolchain that rustup runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    pub toolchain: String,
    pub rustc: Rustc,
    /// Whether the library's source is in its sysroot.
    pub source: bool,
}

/// apt's information about the distribution's compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debian {
    /// Compiler, its source and its cargo are installed, in this version.
    pub installed: Option<(u32, u32)>,
    /// The version that apt would install; unknown before the first `apt-get update`.
    pub candidate: Option<(u32, u32)>,
}

/// The relevant properties of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `VPNHUB_EBPF_TOOLCHAIN`.
    pub requested: Option<String>,
    /// The default toolchain of this workspace.
    pub active: Option<String>,
    pub compilers: Vec<Compiler>,
    /// `None` where there is no apt.
    pub debian: Option<Debian>,
}

/// A way to come to a compiler with its library's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// All is there.
    Use(Compiler),
    /// `rustup component add rust-src`. Needs rustup's server, so it may fail.
    AddSource(Compiler),
    /// The distribution's packages, linked into rustup as [`LINKED`].
    Debian {
        /// `apt-get update` first.
        update: bool,
        /// Something is missing or too old.
        install: bool,
    },
}

impl Way {
    /// The LLVM of the compiler, where that is known beforehand.
    pub fn llvm(&self) -> Option<u32> {
        match self {
            Self::Use(compiler) | Self::AddSource(compiler) => Some(compiler.rustc.llvm),
            Self::Debian { .. } => None,
        }
    }
}

/// The ways to try, best first: what is there before what must be fetched, nightlies before others (the way
/// that aya documents), rustup before the distribution.
pub fn ways(machine: &Machine) -> Vec<Way> {
    let way = |compiler: &Compiler| {
        let go = if compiler.source { Way::Use } else { Way::AddSource };
        go(compiler.clone())
    };
    if let Some(requested) = &machine.requested {
        return machine.compilers.iter().filter(|c| is(c, requested)).map(way).collect();
    }

    let active = |compiler: &Compiler| machine.active.as_deref().is_some_and(|name| is(compiler, name));
    let rank = |compiler: &Compiler| {
        if compiler.toolchain == LINKED {
            0
        } else if compiler.rustc.nightly {
            1
        } else {
            2
        }
    };
    let mut compilers: Vec<&Compiler> = machine
        .compilers
        .iter()
        .filter(|c| c.rustc.release >= OLDEST)
        .filter(|c| rank(c) < 2 || active(c))
        // A linked toolchain has no components: without its source, the distribution's packages are gone.
        .filter(|c| c.toolchain != LINKED || c.source)
        .collect();
    compilers.sort_by_key(|c| (!c.source, rank(c)));

    let mut ways: Vec<Way> = compilers.into_iter().map(way).collect();
    if let Some(debian) = &machine.debian {
        let recent = |version: Option<(u32, u32)>| version.is_some_and(|version| version >= OLDEST);
        let install = !recent(debian.installed);
        ways.push(Way::Debian { update: install && !recent(debian.candidate), install });
    }
    ways
}

/// Whether `name`, with or without the host's triple, is this toolchain.
fn is(compiler: &Compiler, name: &str) -> bool {
    let full = &compiler.toolchain;
    full == name || full.strip_suffix(&compiler.rustc.host).is_some_and(|short| short.strip_suffix('-') == Some(name))
}

#[cfg(test)]
mod tests;
