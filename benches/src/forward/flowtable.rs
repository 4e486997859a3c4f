//! The kernel's flow table, where it has one: nftables lets packets of a known flow skip most of the way.

use std::{fs, io::Write as _, process::Stdio};

use anyhow::{Context as _, Result, bail};
use hub_tests::lab::Namespace;

const TABLE: &str = "inet vpnhub_bench";

/// Why there is none here; `None` when there is.
pub fn missing() -> Option<&'static str> {
    let built_in = || {
        // A function of net/netfilter/nf_flow_table_core.c. Names are shown to all, addresses are not needed.
        fs::read_to_string("/proc/kallsyms").is_ok_and(|symbols| symbols.contains(" flow_offload_add"))
    };
    let module = || std::process::Command::new("modprobe").args(["-q", "nf_flow_table"]).status();
    if !built_in() && !module().is_ok_and(|status| status.success()) {
        return Some("this kernel has no flow tables (CONFIG_NF_FLOW_TABLE)");
    }
    let nft = std::process::Command::new("nft").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    nft.is_err().then_some("`nft` is not installed (apt-get install nftables)")
}

/// Has all UDP that is forwarded between these devices take it, until [`off`].
pub fn on(hub: &Namespace, devices: &[String; 2]) -> Result<()> {
    let [one, other] = devices;
    nft(
        hub,
        &format!(
            "table {TABLE} {{\n\
             flowtable f {{ hook ingress priority 0; devices = {{ {one}, {other} }}; }}\n\
             chain forward {{ type filter hook forward priority 0; policy accept; meta l4proto udp flow add @f; }}\n\
             }}\n"
        ),
    )
}

pub fn off(hub: &Namespace) -> Result<()> {
    nft(hub, &format!("delete table {TABLE}\n"))
}

fn nft(hub: &Namespace, rules: &str) -> Result<()> {
    let mut command = hub.command("nft");
    let command = command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("running `nft`")?;
    // Short enough for the pipe. A broken pipe means that it has ended, which its exit status shows.
    drop(child.stdin.take().expect("stdin is piped").write_all(rules.as_bytes()));
    let output = child.wait_with_output().context("waiting for `nft`")?;
    if !output.status.success() {
        bail!("`nft` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
