//! Debian's checks of packages.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::process;

/// Tags that stay, each with its reason.
const SUPPRESSED: [&str; 0] = [];

/// Fails on errors and warnings other than the suppressed ones.
pub fn check(package: &Path) -> Result<()> {
    super::commands(&[("lintian", "lintian")])?;
    let mut lintian = Command::new("lintian");
    lintian.args([
        "--allow-root",
        "--fail-on",
        "error,warning",
        "--display-info",
        "--suppress-tags",
        &SUPPRESSED.join(","),
    ]);
    let status = process::status(lintian.arg(package))?;
    ensure!(status.success(), "lintian: see above");
    Ok(())
}
