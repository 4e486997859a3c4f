//! `setup`: finds or installs the requirements of building, testing and the demo.
//!
//! It prefers installed tools (`plan`), and records the results for the build scripts (`record`).
//! The record is checked first, so that every verb can afford to ask: a second run takes a tenth of a second.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hub_tests::{
    lab::{Bird, Charon, Frr, Starter},
    tools,
};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    process::{self, Step},
    record::{Record, TOOLCHAIN_VARIABLE, cache_dir},
};
use cargo_tool::CargoTool;
use plan::{Compiler, LINKED, Machine, Rustc, Way};

pub mod apt;
pub mod cargo_tool;
pub mod commands;
pub mod host;
mod linker;
mod plan;
mod python;

/// Finds the requirements of building, testing and the demo, and installs missing ones.
///
/// For the kernel programs: a Rust compiler with the source of its library, and a bpf-linker for that
/// compiler's LLVM. In this order:
///
///  1. the rustup toolchain named by `VPNHUB_EBPF_TOOLCHAIN`, and no other;
///  2. a toolchain that setup linked before (`vpnhub-ebpf`);
///  3. a nightly that has rust-src, or the active toolchain if it has;
///  4. the same after `rustup component add rust-src`;
///  5. on Debian: the packages rustc-web, rust-web-src, cargo-web.
///
/// bpf-linker comes from PATH if that one fits, else it is built below `~/.cache/vpnhub` (a minute, once).
/// For tests and demo: ip, strongSwan, BIRD, FRR and tshark (installed with apt where missing), and the kernel's BPF, BTF, veth
/// and network namespaces (checked). The daemons' own services are neither started nor enabled by that; strongSwan's
/// older form, promtool and Ansible, for the tests, are in the cache and not installed.
///
/// Repeating it is cheap; logs of the long steps are in target/xtask.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {}

pub fn run(_: &Args) -> Result<ExitCode> {
    let record = compiler()?;
    println!("compiler   {} ({})", record.toolchain, record.rustc);
    println!("linker     {}", record.linker.display());
    runtime()?;
    println!("strongSwan {}", strongswan().map_or_else(|error| format!("{error:#}"), |()| "present".to_owned()));
    println!(
        "  older    {}",
        starter().map_or_else(|error| format!("{error:#}"), |()| "present, not installed".to_owned())
    );
    println!("BIRD, FRR  {}", routing_daemons().map_or_else(|error| format!("{error:#}"), |()| "present".to_owned()));
    println!(
        "promtool   {}",
        promtool().map_or_else(|error| format!("{error:#}"), |()| "present, not installed".to_owned())
    );
    println!("tshark     {}", tshark().map_or_else(|error| format!("{error:#}"), |()| "present".to_owned()));
    println!(
        "Ansible    {}",
        python_tool("ansible-playbook")
            .map_or_else(|error| format!("{error:#}"), |_| "present, not installed".to_owned())
    );
    println!("host       Linux {}, commands and kernel features are present", host::kernel_release());
    println!("ready: `cargo xtask build`, `cargo xtask test`");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that tests and demo can run here.
pub fn runtime() -> Result<()> {
    let _lock = lock(&cache()?)?;
    commands::ensure_all()?;
    let problems = host::problems();
    if !problems.is_empty() {
        bail!("this host can build VPN-Hub but not run it:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// Makes sure that strongSwan is installed, for the IPsec demo and tests.
pub fn strongswan() -> Result<()> {
    daemon("IPsec", Charon::missing, apt::install_strongswan)
}

/// Makes sure that BIRD and FRR are installed, for tests of BGP.
pub fn routing_daemons() -> Result<()> {
    daemon("BGP", Bird::missing, apt::install_bird)?;
    daemon("BGP", Frr::missing, apt::install_frr)
}

/// Installs what is missing for something.
fn daemon(of: &str, missing: fn() -> Option<String>, install: fn() -> Result<()>) -> Result<()> {
    let Some(lacking) = missing() else { return Ok(()) };
    let _lock = lock(&cache()?)?;
    if !apt::available() {
        bail!("{of} {lacking}, and this host has no apt");
    }
    install()?;
    missing().map_or(Ok(()), |lacking| bail!("{of} {lacking}, and apt has not installed it"))
}

/// Makes sure that strongSwan's older form (`ipsec`, starter) is there for its tests: unpacked in the cache and of the version
/// that is installed, without which its programs would not load.
pub fn starter() -> Result<()> {
    strongswan()?;
    let cache = cache()?;
    let _lock = lock(&cache)?;
    let unpacked = Starter::unpacked().context("neither HOME nor XDG_CACHE_HOME is set")?;
    let Some(version) = apt::version("libstrongswan") else {
        bail!("strongSwan is not Debian's: its older form is not used");
    };
    let record = unpacked.join("version");
    if fs::read_to_string(&record).is_ok_and(|of| of == version) {
        return Ok(());
    }
    let packages = ["strongswan-starter", "strongswan-charon"].map(|name| format!("{name}={version}"));
    let packages = packages.each_ref().map(String::as_str);
    apt::unpack("fetching strongSwan's starter", &packages, &unpacked, &cache.join("tools/unpacking"))?;
    fs::write(&record, version).with_context(|| format!("writing {}", record.display()))
}

/// Makes sure that Prometheus's `promtool` is there for the tests of metrics and alerts: unpacked in the cache, because the
/// package's service would be started.
pub fn promtool() -> Result<()> {
    if tools::promtool().is_some() {
        return Ok(());
    }
    let cache = cache()?;
    let _lock = lock(&cache)?;
    if !apt::available() {
        bail!("promtool is missing, and this host has no apt");
    }
    let unpacked = tools::prometheus().context("neither HOME nor XDG_CACHE_HOME is set")?;
    apt::unpack("fetching promtool", &["prometheus"], &unpacked, &cache.join("tools/unpacking"))?;
    tools::promtool().map(drop).context("Debian's package prometheus has no promtool")
}

/// Makes sure that tshark is installed, which reads captures in the tests.
pub fn tshark() -> Result<()> {
    let is_there = || host::command("tshark").is_some();
    if is_there() {
        return Ok(());
    }
    let _lock = lock(&cache()?)?;
    if !apt::available() {
        bail!("tshark is missing, and this host has no apt");
    }
    apt::install("installing tshark", &["tshark"])?;
    is_there().then_some(()).context("Debian's package tshark has no tshark")
}

/// Makes sure that a program from crates.io is there; gives its path.
pub fn cargo_tool(tool: &CargoTool) -> Result<PathBuf> {
    let cache = cache()?;
    let _lock = lock(&cache)?;
    cargo_tool::ensure(tool, &cache)
}

/// Makes sure that a program of Python's packages is there (`python.txt`); gives its path.
pub fn python_tool(name: &str) -> Result<PathBuf> {
    let cache = cache()?;
    let _lock = lock(&cache)?;
    python::ensure()?;
    tools::python(name).with_context(|| format!("Python's packages have no program {name}"))
}

/// Makes sure that commands are there that not everything here needs: their names, and their Debian packages'. Gives
/// the cache directory.
pub fn commands(commands: &[(&str, &str)]) -> Result<PathBuf> {
    let cache = cache()?;
    let _lock = lock(&cache)?;
    commands::ensure(commands)?;
    Ok(cache)
}

/// A busybox that runs where there are no libraries.
pub fn static_busybox() -> Result<PathBuf> {
    let _lock = lock(&cache()?)?;
    // A program with an interpreter, the dynamic linker, names it near its beginning.
    let found = || host::command("busybox").filter(|path| fs::read(path).is_ok_and(|bytes| !is_dynamic(&bytes)));
    if let Some(path) = found() {
        return Ok(path);
    }
    apt::install("installing busybox", &["busybox-static"])?;
    found().context("busybox-static is installed, but busybox is not static")
}

fn is_dynamic(program: &[u8]) -> bool {
    let start = &program[..program.len().min(4096)];
    start.windows(8).any(|bytes| bytes == b"ld-linux")
}

/// Makes sure that the kernel programs can be built, and prints the toolchain.
pub fn compiler() -> Result<Record> {
    if host::command("rustup").is_none() {
        bail!("rustup is not on PATH, and the kernel programs need a toolchain of their own: see https://rustup.rs");
    }
    let cache = cache()?;
    let _lock = lock(&cache)?;
    let requested = env::var(TOOLCHAIN_VARIABLE).ok().filter(|name| !name.is_empty());
    if let Some(record) = recorded(&cache, requested.as_deref()) {
        return Ok(record);
    }

    let machine = survey(requested);
    let mut failures = Vec::new();
    // Without a linker the source is useless: do not try another compiler of the same LLVM.
    let mut without_linker = Vec::new();
    for way in plan::ways(&machine) {
        if way.llvm().is_some_and(|llvm| without_linker.contains(&llvm)) {
            continue;
        }
        let taken = take(way).and_then(|compiler| {
            let llvm = compiler.rustc.llvm;
            let linker = linker::ensure(&compiler, &cache).inspect_err(|_| without_linker.push(llvm))?;
            Ok((linker, compiler))
        });
        match taken {
            Ok((linker, compiler)) => {
                let record = Record {
                    bootstrap: !compiler.rustc.nightly,
                    rustc: identity(&compiler.rustc),
                    toolchain: machine.requested.unwrap_or(compiler.toolchain),
                    linker,
                };
                write(&Record::file(&cache), &record.to_string())?;
                return Ok(record);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if let Some(name) = &machine.requested
        && failures.is_empty()
    {
        bail!("{TOOLCHAIN_VARIABLE} is {name}, which rustup does not have: see `rustup toolchain list`");
    }
    let tried = match failures.as_slice() {
        [] => String::new(),
        failures => format!("\ntried:\n  {}", failures.join("\n  ")),
    };
    bail!(
        "no compiler for the kernel programs. Run `rustup toolchain install nightly --component rust-src`, or on \
         Debian `apt-get install --no-install-recommends {}`; then `cargo xtask setup` again{tried}",
        apt::COMPILER.join(" ")
    )
}

/// The record of an earlier run, if all in it still holds.
fn recorded(cache: &Path, requested: Option<&str>) -> Option<Record> {
    let record = Record::parse(&fs::read_to_string(Record::file(cache)).ok()?)?;
    let asked_for = requested.is_none_or(|name| name == record.toolchain);
    (asked_for && record.linker.exists() && identity(&compiler_of(&record.toolchain)?) == record.rustc)
        .then_some(record)
}

fn identity(rustc: &Rustc) -> String {
    format!("{}, LLVM {}", rustc.title, rustc.llvm)
}

fn survey(requested: Option<String>) -> Machine {
    let first_word = |line: &str| line.split(' ').next().map(str::to_owned);
    let rustup = |args: &[&str]| process::capture(Command::new("rustup").args(args)).unwrap_or_default();
    let active = first_word(&rustup(&["show", "active-toolchain"])).filter(|name| !name.is_empty());
    let compilers = rustup(&["toolchain", "list"])
        .lines()
        .filter_map(first_word)
        .filter_map(|toolchain| {
            let rustc = compiler_of(&toolchain)?;
            let sysroot = process::capture(rustup_run(&toolchain, "rustc").args(["--print", "sysroot"]))?;
            let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists();
            Some(Compiler { toolchain, rustc, source })
        })
        .collect();
    let debian = apt::available().then(apt::compiler);
    Machine { requested, active, compilers, debian }
}

/// Tries a way. The resulting compiler has the source of the library.
fn take(way: Way) -> Result<Compiler> {
    match way {
        Way::Use(compiler) => Ok(compiler),
        Way::AddSource(compiler) => {
            let name = &compiler.toolchain;
            Step {
                title: &format!("fetching the library source of {name}"),
                log: "rust-src",
                // A few MB. Where rustup's server cannot be reached this ends soon, and another way follows.
                limit: Some(Duration::from_secs(60)),
                quiet: true,
            }
            .run(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", name]))?;
            Ok(compiler)
        }
        Way::Debian { update, install } => {
            if update {
                apt::update()?;
                let candidate = apt::compiler().candidate;
                if candidate.is_none_or(|version| version < plan::OLDEST) {
                    bail!("this distribution's {} is missing or too old", apt::COMPILER[0]);
                }
            }
            if install {
                apt::install("installing the distribution's Rust compiler and its source", &apt::COMPILER)?;
            }
            let linked = process::capture(Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]));
            linked.context("`rustup toolchain link` failed")?;
            let rustc = compiler_of(LINKED).context("the distribution's compiler does not run")?;
            Ok(Compiler { toolchain: LINKED.to_owned(), rustc, source: true })
        }
    }
}

fn compiler_of(toolchain: &str) -> Option<Rustc> {
    Rustc::parse(&process::capture(rustup_run(toolchain, "rustc").arg("-vV"))?)
}

/// `program` of a toolchain.
fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, program]);
    command
}

fn cache() -> Result<PathBuf> {
    let cache =
        cache_dir().context("neither HOME nor XDG_CACHE_HOME is set: setup has no directory for its results")?;
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    Ok(cache)
}

/// Holds other set-ups off until it is dropped; the kernel drops it with the process, too.
fn lock(cache: &Path) -> Result<Flock<fs::File>> {
    let path = cache.join("setup.lock");
    let file = fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, _)) => file,
    };
    eprintln!("waiting for another `cargo xtask` to finish its setup");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}", path.display()))
}

/// Whole or not at all: a build script may be reading it.
fn write(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).with_context(|| format!("writing {}", file.display()))
}
