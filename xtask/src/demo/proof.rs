//! Proof that XDP forwards, and not the kernel.

use anyhow::{Context as _, Result, ensure};
use hub_tests::lab::{Agent, Namespace};
use serde_json::Value;

use super::{flood::Flood, grouped};

/// The agent's own `status`, indented.
///
/// # Errors
/// When the agent does not answer.
pub fn status(agent: &Agent) -> Result<String> {
    let output = agent.cli(&["status"])?;
    ensure!(output.status.success(), "`vpnhub status` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect())
}

/// A sentence about who forwarded, from the agent's counters and from the hub's kernel.
///
/// # Errors
/// When it would not be true: the kernel forwards, or the counters do not account for the flood.
pub fn forwarded_in_xdp(agent: &Agent, hub: &Namespace, flood: &Flood) -> Result<String> {
    let status = agent.status()?;
    let by_xdp = forwarded(&status).context("the agent's status cannot be parsed")?;
    ensure!(
        by_xdp >= flood.received,
        "{} frames arrived, but the hub counts {} as forwarded in XDP",
        grouped(flood.received),
        grouped(by_xdp),
    );
    Ok(format!(
        "The hub forwarded {} packets in XDP: the pings, and the flood with its warm-up.\n{}",
        grouped(by_xdp),
        kernel_forwards_nothing(hub)?
    ))
}

/// A sentence about the hub's kernel.
///
/// # Errors
/// When it would not be true: the kernel forwards.
pub fn kernel_forwards_nothing(hub: &Namespace) -> Result<String> {
    let ip_forward = hub.read_sysctl("ipv4/ip_forward")?;
    let forwarding = hub.read_sysctl("ipv6/conf/all/forwarding")?;
    ensure!(
        ip_forward == "0" && forwarding == "0",
        "the hub's kernel forwards too: ip_forward is {ip_forward}, IPv6 forwarding is {forwarding}"
    );
    let by_kernel = kernel_forwarded(hub)?;
    ensure!(by_kernel == 0, "the hub's kernel has forwarded {} packets", grouped(by_kernel));
    Ok(format!(
        "The hub's kernel forwarded none: ip_forward is {ip_forward} in its namespace, IPv6 forwarding is {forwarding},\n\
         and the kernel's own count of forwarded packets is {by_kernel}."
    ))
}

/// Packets that the kernel program sent out, over all connections and the VPC.
fn forwarded(status: &Value) -> Option<u64> {
    let connections = status["connections"].as_array()?;
    connections.iter().chain([&status["vpc"]]).map(|side| side["tx_packets"].as_u64()).sum()
}

/// Packets that the kernel has forwarded in this namespace, IPv4 and IPv6.
fn kernel_forwarded(hub: &Namespace) -> Result<u64> {
    let (v4, v6) = hub.enter(|| {
        let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        anyhow::Ok((read("snmp")?, read("snmp6")?))
    })??;
    forwarded_v4(&v4).zip(forwarded_v6(&v6)).map(|(v4, v6)| v4 + v6).context("the kernel's counters cannot be parsed")
}

/// From /proc/net/snmp: a line of names and a line of values, both headed `Ip:`.
fn forwarded_v4(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Ip: "));
    let at = lines.next()?.split(' ').position(|name| name == "ForwDatagrams")?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

/// From /proc/net/snmp6: a name and its value a line.
fn forwarded_v6(snmp6: &str) -> Option<u64> {
    snmp6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_packets_are_summed_over_status() {
        let status =
            serde_json::json!({"connections": [{"tx_packets": 3}, {"tx_packets": 40}], "vpc": {"tx_packets": 500}});
        assert_eq!(forwarded(&status), Some(543));
        assert_eq!(forwarded(&serde_json::json!({"connections": [{}]})), None);
    }

    #[test]
    fn kernel_forward_counters_are_parsed() {
        let snmp = "Ip: Forwarding DefaultTTL ForwDatagrams InDelivers\nIp: 2 64 17 30\nIcmp: InMsgs\nIcmp: 3\n";
        assert_eq!(forwarded_v4(snmp), Some(17));
        assert_eq!(forwarded_v4("Icmp: InMsgs\n"), None);
        assert_eq!(forwarded_v6("Ip6InReceives   \t8\nIp6OutForwDatagrams             \t5\n"), Some(5));
        assert_eq!(forwarded_v6(""), None);
    }
}
