//! Finds the checkout in which a program runs.
//!
//! It is found at run time. A path compiled into a program belongs to the checkout that built it, and cargo considers a
//! `target` directory copied to another checkout up to date.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The workspace's top directory: of the package that cargo runs, or else above the current directory.
pub fn find() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let current = env::current_dir().context("asking for the current directory")?;
    find_from([package.as_deref(), Some(&current)].into_iter().flatten())
        .with_context(|| format!("{} is in no checkout of VPN-Hub: change to one", current.display()))
}

fn find_from<'p>(starts: impl Iterator<Item = &'p Path>) -> Option<PathBuf> {
    starts.flat_map(Path::ancestors).find(|place| is_top(place)).map(Path::to_owned)
}

fn is_top(place: &Path) -> bool {
    let is_workspace = |text: String| text.lines().any(|line| line.trim() == "[workspace]");
    place.join("hub-ebpf/Cargo.toml").is_file() && fs::read_to_string(place.join("Cargo.toml")).is_ok_and(is_workspace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Scratch;

    fn checkout(scratch: &Scratch, name: &str) -> PathBuf {
        let top = scratch.path().join(name);
        for package in ["hub-ebpf", "xtask"] {
            fs::create_dir_all(top.join(package).join("src")).unwrap();
            fs::write(top.join(package).join("Cargo.toml"), "[package]\n").unwrap();
        }
        fs::write(top.join("Cargo.toml"), "[workspace]\nmembers = [\"hub-ebpf\", \"xtask\"]\n").unwrap();
        top
    }

    #[test]
    fn checkout_of_package_precedes_current_directory() {
        let scratch = Scratch::new().unwrap();
        let (one, other) = (checkout(&scratch, "one"), checkout(&scratch, "other"));
        let (package, below, outside) = (one.join("xtask"), other.join("xtask/src"), scratch.path());
        for (starts, expected) in [
            (vec![package.as_path(), &below], Some(&one)),
            (vec![&below], Some(&other)),
            (vec![&other], Some(&other)),
            // Another project's cargo runs us.
            (vec![outside, &below], Some(&other)),
            (vec![outside], None),
        ] {
            assert_eq!(find_from(starts.iter().copied()).as_ref(), expected, "{starts:?}");
        }
    }

    #[test]
    fn checkout_contains_this_test() {
        assert!(find().unwrap().join("tests/src/checkout.rs").is_file());
    }
}
