//! Debian's checks of packages.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::process;

/// Tags that stay.
const SUPPRESSED: [&str; 2] = [
    // The package is not uploaded to Debian.
    "initial-upload-closes-no-bugs",
    // deb-systemd-invoke has neither `daemon-reload` nor `clean`. The calls are skipped where systemd does not run.
    "maintainer-script-calls-systemctl",
];

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
