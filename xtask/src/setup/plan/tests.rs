use super::*;

const HOST: &str = "x86_64-unknown-linux-gnu";

/// A toolchain in short: `1.90`, `stable` (1.95), `nightly` (1.97), [`LINKED`] (1.96); `+` when it has the source.
fn compiler(text: &str) -> Compiler {
    let (name, source) = text.strip_suffix('+').map_or((text, false), |name| (name, true));
    let release = match name {
        LINKED => (1, 96),
        "stable" => (1, 95),
        "nightly" => (1, 97),
        other => version(other).unwrap(),
    };
    let triple = if name == LINKED { String::new() } else { format!("-{HOST}") };
    let rustc =
        Rustc { title: format!("rustc of {name}"), release, nightly: name == "nightly", llvm: 22, host: HOST.into() };
    Compiler { toolchain: format!("{name}{triple}"), rustc, source }
}

/// `INSTALLED/CANDIDATE` as apt sees the compiler, either empty for none; empty where there is no apt.
fn debian(text: &str) -> Option<Debian> {
    let (installed, candidate) = text.split_once('/')?;
    Some(Debian { installed: version(installed), candidate: version(candidate) })
}

/// Ways in short: `use NAME`, `add NAME`, `debian [update] [install]`.
fn short(ways: &[Way]) -> Vec<String> {
    let name = |compiler: &Compiler| compiler.toolchain.replace(&format!("-{HOST}"), "");
    ways.iter()
        .map(|way| match way {
            Way::Use(compiler) => format!("use {}", name(compiler)),
            Way::AddSource(compiler) => format!("add {}", name(compiler)),
            Way::Debian { update, install } => {
                let (update, install) = (if *update { " update" } else { "" }, if *install { " install" } else { "" });
                format!("debian{update}{install}")
            }
        })
        .collect()
}

/// Each row: what it is, its toolchains (the first is the active one), its apt, the ways expected.
const MACHINES: &str = "
    nothing at all             |                              |           |
    a fresh Debian             | stable                       | /         | add stable, debian update install
    apt lists are there        | stable                       | /1.96     | add stable, debian install
    installed, not linked      | stable nightly               | 1.96/1.96 | add nightly, add stable, debian
    installed but too old      | stable                       | 1.85/1.96 | add stable, debian install
    lists too old as well      | stable                       | 1.85/1.85 | add stable, debian update install
    another distribution       | stable nightly               |           | add nightly, add stable
    the usual aya set-up       | stable nightly+              |           | use nightly, add stable
    linked before              | stable nightly+ vpnhub-ebpf+ |           | use vpnhub-ebpf, use nightly, add stable
    what is there goes first   | stable+ nightly              |           | use stable, add nightly
    linked, packages removed   | stable vpnhub-ebpf           | /1.96     | add stable, debian install
    too old                    | 1.87+                        |           |
    neither active nor nightly | stable 1.90+                 |           | add stable
";

fn machine(toolchains: &str, apt: &str) -> Machine {
    Machine {
        requested: None,
        active: toolchains.split([' ', '+']).next().map(str::to_owned),
        compilers: toolchains.split_whitespace().map(compiler).collect(),
        debian: debian(apt),
    }
}

#[test]
fn setup_prefers_option_with_fewest_changes() {
    for row in MACHINES.trim().lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [name, toolchains, apt, expected] = cells[..] else { panic!("four cells: {row}") };
        let chosen = short(&ways(&machine(toolchains, apt))).join(", ");
        assert_eq!(chosen, expected, "{name}");
    }
}

#[test]
fn requested_toolchain_is_only_option() {
    for (requested, toolchains, expected) in [
        ("1.90", "stable+ 1.90+", "use 1.90"),
        ("1.90-x86_64-unknown-linux-gnu", "stable+ 1.90+", "use 1.90"),
        ("nightly", "nightly vpnhub-ebpf+", "add nightly"),
        ("nonsense", "vpnhub-ebpf+", ""),
        ("1.9", "1.90+", ""),
    ] {
        let machine = Machine { requested: Some(requested.into()), ..machine(toolchains, "/") };
        assert_eq!(short(&ways(&machine)).join(", "), expected, "{requested} of {toolchains}");
    }
}

#[test]
fn rustc_version_output_is_parsed() {
    let said = |release: &str, llvm: &str| {
        format!(
            "rustc {release} (e50aa6fba 2026-05-19)\nbinary: rustc\ncommit-hash: e50aa6fb\n\
             commit-date: 2026-05-19\nhost: {HOST}\nrelease: {release}\nLLVM version: {llvm}\n"
        )
    };
    for (release, llvm, expected) in [
        ("1.97.0-nightly", "22.1.4", Some(((1, 97), true, 22))),
        ("1.95.0", "22.1.2", Some(((1, 95), false, 22))),
        ("1.96.0", "9.0", Some(((1, 96), false, 9))),
        ("one", "22.1.2", None),
        ("1.95.0", "unknown", None),
    ] {
        let rustc = Rustc::parse(&said(release, llvm));
        assert_eq!(rustc.map(|r| (r.release, r.nightly, r.llvm)), expected, "{release}, {llvm}");
    }
    assert_eq!(Rustc::parse("error: toolchain 'x' is not installed"), None);
    // A compiler with another backend has no LLVM line.
    assert_eq!(Rustc::parse("rustc 1.95.0\nhost: x\nrelease: 1.95.0\n"), None);
}

#[test]
fn package_version_is_parsed() {
    for (text, expected) in
        [("1.96.0+dfsg1-1~deb12u2", Some((1, 96))), ("1.97.0-nightly", Some((1, 97))), ("(none)", None), ("", None)]
    {
        assert_eq!(version(text), expected, "{text}");
    }
}
