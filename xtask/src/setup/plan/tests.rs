use super::*;

const HOST: &str = "x86_64-unknown-linux-gnu";

fn compiler(name: &str, release: (u32, u32), source: bool) -> Compiler {
    let nightly = name.starts_with("nightly");
    let rustc = Rustc {
        title: format!("rustc of {name}"),
        release,
        nightly,
        llvm: 22,
        host: HOST.into(),
    };
    let toolchain = if name == LINKED {
        name.into()
    } else {
        format!("{name}-{HOST}")
    };
    Compiler {
        toolchain,
        rustc,
        source,
    }
}

/// Ways in short: `use NAME`, `add NAME`, `debian [update] [install]`.
fn short(ways: &[Way]) -> Vec<String> {
    let name = |compiler: &Compiler| compiler.toolchain.replace(&format!("-{HOST}"), "");
    ways.iter()
        .map(|way| match way {
            Way::Use(compiler) => format!("use {}", name(compiler)),
            Way::AddSource(compiler) => format!("add {}", name(compiler)),
            Way::Debian { update, install } => {
                let (update, install) = (
                    if *update { " update" } else { "" },
                    if *install { " install" } else { "" },
                );
                format!("debian{update}{install}")
            }
        })
        .collect()
}

#[test]
fn the_first_way_is_the_one_that_needs_least() {
    let stable = || compiler("stable", (1, 95), false);
    let stable_with_source = || compiler("stable", (1, 95), true);
    let nightly = || compiler("nightly", (1, 97), false);
    let nightly_with_source = || compiler("nightly", (1, 97), true);
    let linked = || compiler(LINKED, (1, 96), true);
    let debian = |installed, candidate| {
        Some(Debian {
            installed,
            candidate,
        })
    };
    let fresh_apt = || debian(None, None);

    let cases = [
        ("nothing at all", None, vec![], None, vec![]),
        (
            "a fresh Debian",
            None,
            vec![stable()],
            fresh_apt(),
            vec!["add stable", "debian update install"],
        ),
        (
            "apt lists are there",
            None,
            vec![stable()],
            debian(None, Some((1, 96))),
            vec!["add stable", "debian install"],
        ),
        (
            "packages installed, not linked yet",
            None,
            vec![stable(), nightly()],
            debian(Some((1, 96)), Some((1, 96))),
            vec!["add nightly", "add stable", "debian"],
        ),
        (
            "installed but too old",
            None,
            vec![stable()],
            debian(Some((1, 85)), Some((1, 96))),
            vec!["add stable", "debian install"],
        ),
        (
            "another distribution",
            None,
            vec![stable(), nightly()],
            None,
            vec!["add nightly", "add stable"],
        ),
        (
            "the usual aya set-up",
            None,
            vec![stable(), nightly_with_source()],
            None,
            vec!["use nightly", "add stable"],
        ),
        (
            "linked before, goes first",
            None,
            vec![stable(), nightly_with_source(), linked()],
            fresh_apt(),
            vec![
                "use vpnhub-ebpf",
                "use nightly",
                "add stable",
                "debian update install",
            ],
        ),
        (
            "stable's source is there, nightly's must be fetched",
            None,
            vec![nightly(), stable_with_source()],
            None,
            vec!["use stable", "add nightly"],
        ),
        (
            "linked, but its packages were removed",
            None,
            vec![compiler(LINKED, (1, 96), false), stable()],
            debian(None, Some((1, 96))),
            vec!["add stable", "debian install"],
        ),
        (
            "too old",
            None,
            vec![compiler("stable", (1, 87), true)],
            None,
            vec![],
        ),
        (
            "neither active nor nightly",
            None,
            vec![compiler("1.90.0", (1, 90), true)],
            None,
            vec![],
        ),
        (
            "asked for",
            Some("1.90.0"),
            vec![stable(), compiler("1.90.0", (1, 90), true)],
            None,
            vec!["use 1.90.0"],
        ),
        (
            "asked for, without source",
            Some("nightly"),
            vec![nightly(), linked()],
            None,
            vec!["add nightly"],
        ),
        (
            "asked for, not there",
            Some("nonsense"),
            vec![linked()],
            fresh_apt(),
            vec![],
        ),
    ];
    for (name, requested, compilers, debian, expected) in cases {
        let requested = requested.map(str::to_owned);
        let machine = Machine {
            requested,
            active: Some("stable".into()),
            compilers,
            debian,
        };
        assert_eq!(short(&ways(&machine)), expected, "{name}");
    }
}

#[test]
fn rustc_introduces_itself() {
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
        assert_eq!(
            rustc.map(|r| (r.release, r.nightly, r.llvm)),
            expected,
            "{release}, {llvm}"
        );
    }
    assert_eq!(Rustc::parse("error: toolchain 'x' is not installed"), None);
    // A compiler with another backend has no LLVM line.
    assert_eq!(
        Rustc::parse("rustc 1.95.0\nhost: x\nrelease: 1.95.0\n"),
        None
    );
}

#[test]
fn package_versions_are_read() {
    for (text, expected) in [
        ("1.96.0+dfsg1-1~deb12u2", Some((1, 96))),
        ("1.97.0-nightly", Some((1, 97))),
        ("(none)", None),
        ("", None),
    ] {
        assert_eq!(version(text), expected, "{text}");
    }
}
