//! Programs of Python's packages that tests need, in a virtual environment in the cache: nothing is installed.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use hub_tests::tools;

use super::{apt, host};
use crate::process::Step;

/// The packages, in pip's format.
const REQUIREMENTS: &str = include_str!("python.txt");

/// Makes the environment, if there is none with these packages.
pub fn ensure() -> Result<()> {
    let root = tools::python_environment().context("neither HOME nor XDG_CACHE_HOME is set")?;
    let record = root.join("requirements.txt");
    if fs::read_to_string(&record).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(());
    }
    // Debian has it in a package of its own.
    let has_venv = || Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !has_venv().is_ok_and(|output| output.status.success()) && apt::available() {
        apt::install("installing Python's venv", &["python3-venv"])?;
    }
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    let step = |title, log| Step { title, log, limit: Some(Duration::from_secs(900)), quiet: false };
    let python = host::command("python3").context("python3 is missing")?;
    step("making a virtual environment", "venv").run(Command::new(python).args(["-m", "venv"]).arg(&root))?;
    let packages = root.join("packages.txt");
    fs::write(&packages, REQUIREMENTS).with_context(|| format!("writing {}", packages.display()))?;
    let mut pip = Command::new(root.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&packages);
    step("fetching ansible-core, ansible-lint and a validator of CycloneDX", "pip").run(&mut pip)?;
    // The last step: a record means that all is there.
    fs::rename(&packages, &record).with_context(|| format!("naming {}", record.display()))
}
