//! Installs the commands that tests, demo and benches run.

use anyhow::{Result, bail};

use super::{apt, host};

/// Commands, and the Debian package of each.
const COMMANDS: [(&str, &str); 1] = [("ip", "iproute2")];

/// Additional command of the tests: they list, flush and add rulesets.
pub const NFT: (&str, &str) = ("nft", "nftables");

/// Additional commands of one benchmark.
pub const IPERF3: (&str, &str) = ("iperf3", "iperf3");

/// Installs the commands that are missing.
pub fn ensure_all() -> Result<()> {
    ensure(&COMMANDS)
}

/// Installs those of `commands`, each with its Debian package, that are missing.
pub fn ensure(commands: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = commands.iter().filter(|(name, _)| host::command(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let join = |names: Vec<&str>| names.join(", ");
    let names = join(missing.iter().map(|(name, _)| *name).collect());
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if !apt::available() {
        bail!("missing: {names}; Debian's packages are called {}", join(packages));
    }
    apt::install(&format!("installing {names}"), &packages)
}
