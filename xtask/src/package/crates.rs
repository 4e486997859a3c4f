//! The crates inside the agent's file: those of the agent, and those of the kernel program that it embeds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// A program of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Agent,
    /// The BPF program, which is inside the agent's file.
    Kernel,
}

impl Program {
    pub const ALL: [Self; 2] = [Self::Agent, Self::Kernel];

    /// The package that builds it.
    pub fn package(self) -> &'static str {
        match self {
            Self::Agent => "hub-userspace",
            Self::Kernel => "hub-ebpf",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Kernel => "kernel",
        }
    }

    /// The compiler's name of the target; `agent`: that of the agent.
    fn target(self, agent: &str) -> &str {
        match self {
            Self::Agent => agent,
            Self::Kernel => "bpfel-unknown-none",
        }
    }
}

/// What the agent is built with. Features of crates, and so optional crates, depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The workspace's default members, as for this host.
    Workspace,
    /// Its package alone, as for a static program.
    Package,
}

/// A crate, by name and version: these tell crates apart, because all are from crates.io or from this workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub name: String,
    pub version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crate {
    /// SPDX expression.
    pub licence: Option<String>,
    pub repository: Option<String>,
    /// Of the file at crates.io, in hexadecimal digits; none for a package of this workspace.
    pub sha256: Option<String>,
    pub dependencies: BTreeSet<Id>,
    /// The programs that have it.
    pub programs: BTreeSet<Program>,
    /// Whether some program contains its code: false for procedural macros, which run in the compiler, and for crates that
    /// only those need.
    pub linked: bool,
    is_macro: bool,
}

/// All crates of both programs, with the agent built for `target`.
pub fn of(target: &str, scope: Scope) -> Result<BTreeMap<Id, Crate>> {
    let mut all = BTreeMap::new();
    for program in Program::ALL {
        let tree = tree(program, target, scope)?;
        let crates = parse(&tree).with_context(|| format!("cargo tree of {}", program.package()))?;
        add(&mut all, crates, program)?;
    }
    let lock = fs::read_to_string(process::workspace().join("Cargo.lock")).context("reading Cargo.lock")?;
    for (id, sha256) in checksums(&lock)? {
        if let Some(found) = all.get_mut(&id) {
            found.sha256 = Some(sha256);
        }
    }
    Ok(all)
}

/// What `cargo tree` prints: a line a crate with its depth, its dependencies below it.
fn tree(program: Program, target: &str, scope: Scope) -> Result<String> {
    let mut cargo = process::cargo();
    cargo.args(["tree", "--locked", "--target", program.target(target)]);
    if program == Program::Kernel || scope == Scope::Package {
        cargo.args(["--package", program.package()]);
    }
    cargo.args(["--edges", "normal", "--charset", "ascii", "--prefix", "depth", "--format", "{p}\t{l}\t{r}"]);
    process::capture(&mut cargo).with_context(|| format!("cargo tree of {} failed", program.package()))
}

/// The crates of a tree. A crate that occurs again has ` (*)` at the end of its line, and its dependencies are not repeated.
fn parse(tree: &str) -> Result<BTreeMap<Id, Crate>> {
    let mut crates: BTreeMap<Id, Crate> = BTreeMap::new();
    let mut above: Vec<Id> = Vec::new();
    // A blank line parts the trees of several packages.
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let name_at = line.find(|character: char| !character.is_ascii_digit()).context("a line without a crate")?;
        let (depth, rest) = line.split_at(name_at);
        let depth: usize = depth.parse().with_context(|| format!("no depth in {line:?}"))?;
        let mut fields = rest.trim_end_matches(" (*)").split('\t');
        let [Some(package), licence, repository] = [fields.next(), fields.next(), fields.next()] else {
            bail!("no crate in {line:?}");
        };
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next().and_then(|word| word.strip_prefix('v'))) else {
            bail!("no version in {line:?}");
        };
        let id = Id { name: name.to_owned(), version: version.to_owned() };
        if depth > above.len() {
            bail!("{line:?} has no crate above it");
        }
        above.truncate(depth);
        if let Some(parent) = above.last() {
            crates.entry(parent.clone()).or_default().dependencies.insert(id.clone());
        }
        let given = |field: Option<&str>| field.filter(|text| !text.is_empty()).map(str::to_owned);
        let found = crates.entry(id.clone()).or_default();
        // Cargo's older form of a choice is no SPDX expression.
        found.licence = given(licence).map(|licence| licence.replace('/', " OR "));
        found.repository = given(repository).filter(|url| url.starts_with("https://"));
        found.is_macro |= words.any(|word| word == "(proc-macro)");
        above.push(id);
    }
    Ok(crates)
}

/// Adds the crates of one program, from a tree that may have others, too.
fn add(all: &mut BTreeMap<Id, Crate>, crates: BTreeMap<Id, Crate>, program: Program) -> Result<()> {
    let root = crates.keys().find(|id| id.name == program.package()).context("the tree lacks its root")?.clone();
    let reached = |goes_on: fn(&Crate) -> bool| {
        let mut reached = BTreeSet::new();
        let mut next = vec![root.clone()];
        while let Some(id) = next.pop() {
            let found = &crates[&id];
            if goes_on(found) && reached.insert(id) {
                next.extend(found.dependencies.iter().cloned());
            }
        }
        reached
    };
    let (needed, linked) = (reached(|_| true), reached(|found| !found.is_macro));
    for (id, found) in crates.into_iter().filter(|(id, _)| needed.contains(id)) {
        let is_linked = linked.contains(&id);
        let known = all.entry(id).or_insert_with(|| Crate { dependencies: BTreeSet::new(), ..found.clone() });
        known.dependencies.extend(found.dependencies);
        known.programs.insert(program);
        known.linked |= is_linked;
    }
    Ok(())
}

/// The checksums of a lock file.
fn checksums(lock: &str) -> Result<Vec<(Id, String)>> {
    let lock: toml::Table = toml::from_str(lock).context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
    let text = |package: &toml::Value, key| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let checksum = |package| {
        Some((Id { name: text(package, "name")?, version: text(package, "version")? }, text(package, "checksum")?))
    };
    Ok(packages.iter().filter_map(checksum).collect())
}

/// A line for each crate: name, version and licence.
pub fn list(crates: &BTreeMap<Id, Crate>) -> String {
    let line = |(Id { name, version }, found): (&Id, &Crate)| {
        format!("{name} v{version}: {}\n", found.licence.as_deref().unwrap_or_default())
    };
    crates.iter().map(line).collect()
}

/// The compiler of the agent, as `rustc --version` has it.
pub fn compiler() -> Result<String> {
    process::capture(Command::new("rustc").arg("--version").current_dir(process::workspace())).context("rustc failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Id {
        Id { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn tree_yields_dependencies_and_what_is_linked() {
        let tree = "0hub-userspace v0.2.0 (/a place)\tMIT OR Apache-2.0\t\n\
                    1serde v1.0.1\tMIT/Apache-2.0\thttps://example.org/serde\n\
                    2derive v1.0.1 (proc-macro)\tMIT\t\n\
                    3syn v2.0.0\tMIT\t\n\
                    1other v0.1.0\t\thttp://example.org\n\
                    2serde v1.0.1\tMIT/Apache-2.0\thttps://example.org/serde (*)\n\n\
                    0xtask v0.2.0 (/a place)\tMIT\t\n\
                    1indicatif v0.18.0\tMIT\t\n";
        let mut all = BTreeMap::new();
        add(&mut all, parse(tree).unwrap(), Program::Agent).unwrap();
        let linked: Vec<_> = all.iter().map(|(id, found)| (id.name.as_str(), found.linked)).collect();
        assert_eq!(
            linked,
            [("derive", false), ("hub-userspace", true), ("other", true), ("serde", true), ("syn", false)]
        );
        let serde = &all[&id("serde", "1.0.1")];
        assert_eq!(serde.licence.as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(serde.repository.as_deref(), Some("https://example.org/serde"));
        assert_eq!(serde.dependencies, [id("derive", "1.0.1")].into());
        let other = &all[&id("other", "0.1.0")];
        assert_eq!((&other.licence, &other.repository), (&None, &None));
        assert_eq!(other.dependencies, [id("serde", "1.0.1")].into());
    }

    #[test]
    fn text_that_is_no_tree_is_an_error() {
        for text in ["hub v1", "0hub", "1hub v1\t\t", "0hub v1\t\t\n2serde v1\t\t"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn crate_list_has_licences_and_no_paths() {
        let _alone = process::tests::alone();
        let crates = list(&of("x86_64-unknown-linux-gnu", Scope::Workspace).unwrap());
        assert!(crates.lines().any(|line| line.starts_with("aya v") && line.contains("MIT")), "{crates}");
        assert!(crates.lines().any(|line| line.starts_with("aya-ebpf v") && line.contains("MIT")), "{crates}");
        assert!(crates.lines().any(|line| line.starts_with("hub-common v") && line.contains(": ")), "{crates}");
        assert!(!crates.contains(process::workspace().to_str().unwrap()), "{crates}");
        assert!(!crates.lines().any(|line| line.ends_with(": ")), "without a licence: {crates}");
    }
}
