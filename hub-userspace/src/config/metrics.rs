//! `[metrics]`: the address of the listener for Prometheus.

use std::net::SocketAddr;

use toml::de::DeValue;

use super::{
    diagnostic::{DiagnosticReport, Problem, quoted},
    draft::Draft,
    value::{Read, string},
};

/// An IP address and a port.
pub(super) fn listen(value: &DeValue<'_>) -> Read<SocketAddr> {
    const HELP: &str = "write an IP address and a port, such as \"127.0.0.1:9118\" or \"[::1]:9118\"";
    let text = string(value).map_err(|problem| problem.help(HELP))?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(Problem::new("the port is 0").help("choose a port from 1 to 65535, such as 9118"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(Problem::new(format!("{} is not an address with a port", quoted(text))).help(HELP)),
    }
}

/// Warns of an address that other hosts can reach.
pub(super) fn validate(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(listen) = draft.metrics.as_ref().and_then(|metrics| metrics.listen) else { return };
    if listen.value.ip().to_canonical().is_loopback() {
        return;
    }
    let problem = Problem::new(format!(
        "metrics have no authentication: each host that reaches {} reads names, destinations and counters",
        listen.value
    ));
    let help = "listen on 127.0.0.1 or [::1], or let only the Prometheus server reach the port";
    report.warning(listen.at, "metrics.listen", problem.help(help));
}
