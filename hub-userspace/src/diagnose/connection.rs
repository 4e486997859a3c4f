//! Connections, their tunnels, and the routes through them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::remedy;
use crate::{
    api_types::{
        diagnose::{Area, Code, Finding, Severity},
        status::{ConnectionStatus, FullStatus, Health, IpsecStatus, LearnedStatus, RouteStatus, warning},
    },
    config::STANDBY,
    connection::state::{Health as HealthState, State},
};

/// Findings of one kind about a connection: the others are in `vpnhub status`.
const MOST: usize = 5;

/// Judges all connections, or the one with this name.
pub fn judge(status: &FullStatus, only: Option<&str>) -> Vec<Finding> {
    let status = &status.status;
    let routes = Routes::of(&status.connections, &status.routes);
    let mut findings = Vec::new();
    for connection in &status.connections {
        let is_meant = |one: &ConnectionStatus| only.is_none_or(|name| name == one.name || name == connection.name);
        for member in connection.members().iter().filter(|one| is_meant(one)) {
            findings.extend(of_member(member, (!connection.tunnels.is_empty()).then_some(connection), &routes));
        }
        if !connection.tunnels.is_empty() && is_meant(connection) && !is_standby(connection) {
            findings.extend(routes.judge(connection));
            findings.extend(learned_quota(connection));
        }
    }
    findings
}

/// Judges a connection without tunnels, or a tunnel of one.
fn of_member(connection: &ConnectionStatus, tunnel_of: Option<&ConnectionStatus>, routes: &Routes<'_>) -> Vec<Finding> {
    let mut found = of_state(connection);
    match tunnel_of {
        // Others carry its traffic.
        Some(all) if all.state.is_up() => found.iter_mut().for_each(Finding::at_most_a_warning),
        Some(_) => {}
        None if is_standby(connection) => {}
        None => {
            found.extend(routes.judge(connection));
            found.extend(learned_quota(connection));
        }
    }
    // The other conditions matter while it carries traffic.
    if connection.state != State::AdminDown && !is_standby(connection) {
        found.extend(connection.ipsec.iter().flat_map(|ipsec| selectors(connection, ipsec)));
        found.extend(warnings(connection));
    }
    if found.is_empty() {
        found.push(Finding::ok(Area::Connection, &connection.name, Code::ConnectionUp, in_order(connection)));
    }
    found
}

/// Another hub has its tunnels.
fn is_standby(connection: &ConnectionStatus) -> bool {
    let reasons = connection.members().iter().filter_map(|member| member.state_reason.as_deref());
    reasons.into_iter().any(|reason| reason.starts_with(STANDBY))
}

fn in_order(connection: &ConnectionStatus) -> String {
    let health = connection.health.as_ref().map(|health| {
        let round_trip = health.round_trip.map(|time| format!(", round trip {:.1} ms", time * 1000.0));
        format!("; {} of {} probes lost{}", health.recent_lost, health.recent_probes, round_trip.unwrap_or_default())
    });
    let sas = connection.ipsec.as_ref().map(|ipsec| format!("; {}", child_sas(ipsec.children.len())));
    format!("up for {}{}{}", duration(connection.state_seconds), sas.unwrap_or_default(), health.unwrap_or_default())
}

fn child_sas(count: usize) -> String {
    if count == 1 { "1 child SA".to_owned() } else { format!("{count} child SAs") }
}

/// In the largest unit of which there are at least two.
fn duration(seconds: f64) -> String {
    let units = [(86400.0, "d"), (3600.0, "h"), (60.0, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2.0 * length);
    unit.map_or_else(|| format!("{seconds:.0} s"), |(length, name)| format!("{:.0} {name}", (seconds / length).floor()))
}

/// Why it is not up, or that probes are lost.
fn of_state(connection: &ConnectionStatus) -> Vec<Finding> {
    let ConnectionStatus { name, state, state_reason, health, ipsec, .. } = connection;
    let since = duration(connection.state_seconds);
    match state {
        State::Up | State::Degraded => health.as_ref().and_then(|health| of_health(name, health)).into_iter().collect(),
        State::AdminDown => {
            let message = format!("administratively down for {since}");
            let action = format!("`vpnhub connection up {name}` to use it again");
            vec![Finding::warning(Area::Connection, name, Code::AdminDown, message, action)]
        }
        State::Down | State::HoldDown => {
            let reason = state_reason.as_deref().unwrap_or("down");
            let (severity, code) = code_of(reason, health.as_ref(), ipsec.as_ref());
            let otherwise = match code {
                Code::HoldDown => "wait: it comes up by itself, or fails soon".to_owned(),
                Code::HealthCheckFailed => {
                    "check the path behind the tunnel, and that the destination answers pings from the source"
                        .to_owned()
                }
                Code::TunnelDown => {
                    "compare the settings with the site's: `vpnhub peer-config`; the logs of strongSwan \
                    and of the site have the details"
                        .to_owned()
                }
                _ => "check its interface and the logs of the agent".to_owned(),
            };
            let mut finding = remedy::finding(severity, Area::Connection, name, code, reason, otherwise);
            finding.message = format!("down for {since}: {}", finding.message);
            finding.cloud_code = match code {
                Code::TunnelDown => ipsec.as_ref().and_then(|ipsec| ipsec.cloud_code.clone()),
                _ => None,
            };
            vec![finding]
        }
    }
}

fn code_of(reason: &str, health: Option<&Health>, ipsec: Option<&IpsecStatus>) -> (Severity, Code) {
    match () {
        () if reason.starts_with(STANDBY) => (Severity::Ok, Code::Role),
        () if reason.starts_with("healthy again") => (Severity::Warning, Code::HoldDown),
        // A failed check says so after some probes.
        () if reason.ends_with("has not replied yet") => (Severity::Warning, Code::HoldDown),
        () if reason.starts_with("interface ") => (Severity::Error, Code::InterfaceDown),
        () if ipsec.is_some_and(|ipsec| ipsec.children.is_empty()) => (Severity::Error, Code::TunnelDown),
        () if health.is_some_and(|health| !health.healthy) => (Severity::Error, Code::HealthCheckFailed),
        () => (Severity::Error, Code::ConnectionDown),
    }
}

/// None lost: in order. All lost: it is down.
fn of_health(name: &str, health: &Health) -> Option<Finding> {
    let Health { recent_probes, recent_lost, state, targets, .. } = health;
    if *state == Some(HealthState::Degraded) {
        let message = format!("degraded: {recent_lost} of the last {recent_probes} probes were lost");
        let action = "check the path to the site for loss; until then other next hops carry its traffic, if any is up";
        return Some(Finding::warning(Area::Connection, name, Code::Degraded, message, action));
    }
    let silent: Vec<_> = targets.iter().filter(|target| target.state == Some(HealthState::Down)).collect();
    if let Some(first) = silent.first() {
        let message = format!(
            "{} of {} destinations of the health check do not reply, such as {}",
            silent.len(),
            targets.len(),
            first.destination
        );
        let action =
            "check the paths to them behind the tunnel; the connection is up by the others (require = \"any\")";
        return Some(Finding::warning(Area::Connection, name, Code::TargetsSilent, message, action));
    }
    (*recent_lost > 0).then(|| {
        let message = format!("{recent_lost} of the last {recent_probes} probes were lost");
        let action = "check the path to the site for loss: its Internet access, and the load of its device";
        Finding::warning(Area::Connection, name, Code::ProbesLost, message, action)
    })
}

/// Selectors without an SA, and parts of SAs that the program does not admit.
fn selectors(ConnectionStatus { name, .. }: &ConnectionStatus, ipsec: &IpsecStatus) -> Vec<Finding> {
    let found = |code, text: &str, otherwise: &str| {
        remedy::finding(Severity::Warning, Area::Connection, name, code, text, otherwise)
    };
    let otherwise = "compare local_cidrs and remote_cidrs with the site's remote and local ones";
    // Without any SA, the reason of the state has the same.
    let missing = ipsec.missing.iter().filter(|_| !ipsec.children.is_empty());
    let missing = missing.take(MOST).map(|missing| {
        let text = format!("no SA for {}: {}", missing.selectors, missing.reason);
        found(Code::SelectorsMissing, &text, otherwise)
    });
    let problems = ipsec.problems.iter().take(MOST);
    let problems = problems.map(|problem| found(Code::SelectorsNotAdmitted, problem, otherwise));
    missing.chain(problems).collect()
}

fn warnings(connection: &ConnectionStatus) -> impl Iterator<Item = Finding> {
    let codes = connection.warning_codes.iter().map(|code| match code.as_str() {
        warning::NO_HUB_ADDRESS => Code::NoHubAddress,
        warning::BRIDGE_PORT => Code::BridgePort,
        warning::SENDER_CHECKSUM => Code::SenderChecksum,
        warning::LEARNED_REFUSED => Code::LearnedRefused,
        warning::SHARED_FLOWS => Code::SharedFlows,
        warning::PER_CPU_SAS => Code::PerCpuSas,
        _ => Code::ConnectionWarning,
    });
    // An agent of another version may have none.
    let codes = codes.chain(std::iter::repeat(Code::ConnectionWarning));
    connection.warnings.iter().zip(codes).map(|(text, code)| {
        let otherwise = match code {
            Code::SenderChecksum => {
                "`ethtool -K PEER tx off` at the other end if it is on this host, or start the agent with `--attach tc`"
            }
            Code::LearnedRefused => "filter them at the routing daemon; `vpnhub route list --learned` shows the others",
            _ => "docs/operations.md explains the warnings of `vpnhub status`",
        };
        remedy::finding(Severity::Warning, Area::Connection, &connection.name, code, text, otherwise)
    })
}

/// More than four fifths of the quota are in use. What is beyond it is refused, and a warning of the status.
fn learned_quota(connection: &ConnectionStatus) -> Option<Finding> {
    let LearnedStatus { routes, limit, .. } = connection.learned.as_ref()?;
    (routes * 5 > limit * 4).then(|| {
        let message = format!("{routes} of {limit} learned routes are in use");
        let action = "raise [learn] max_per_connection before more are needed";
        Finding::warning(Area::Connection, &connection.name, Code::Quota, message, action)
    })
}

/// Destinations by the connections that lead to them.
struct Routes<'a> {
    /// Of connections that are not up: destinations, and the connections that carry them now.
    of_down: BTreeMap<&'a str, Vec<(IpNet, BTreeSet<&'a str>)>>,
}

impl<'a> Routes<'a> {
    fn of(connections: &'a [ConnectionStatus], routes: &'a [RouteStatus]) -> Self {
        let is_up = |connection: &&ConnectionStatus| connection.state.is_up();
        let up: BTreeSet<_> = connections.iter().filter(is_up).map(|one| one.name.as_str()).collect();
        let mut next_hops = BTreeMap::<IpNet, Vec<&str>>::new();
        for route in routes {
            next_hops.entry(route.destination).or_default().push(&route.next_hop);
        }
        let mut of_down = BTreeMap::<&str, Vec<_>>::new();
        for (destination, names) in next_hops {
            let (carrying, down): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| up.contains(name));
            let carrying: BTreeSet<_> = carrying.into_iter().collect();
            for name in down {
                of_down.entry(name).or_default().push((destination, carrying.clone()));
            }
        }
        Self { of_down }
    }

    fn judge(&self, connection: &ConnectionStatus) -> Vec<Finding> {
        let name = connection.name.as_str();
        let routes = self.of_down.get(name).map_or(&[][..], Vec::as_slice);
        let (unreachable, carried): (Vec<_>, Vec<_>) = routes.iter().partition(|(_, carrying)| carrying.is_empty());
        let mut findings = Vec::new();
        if let Some((destination, _)) = unreachable.first() {
            let severity = match connection.state {
                State::AdminDown => Severity::Warning,
                _ => Severity::Error,
            };
            let message =
                format!("{}: no next hop is up", destinations(unreachable.len(), *destination, "unreachable"));
            let action = format!(
                "bring {name} up, or give them a standby: `vpnhub route add {destination} --next-hop OTHER --weight 0`"
            );
            let finding = Finding::error(Area::Connection, name, Code::RoutesUnreachable, message, action);
            findings.push(Finding { severity, ..finding });
        }
        if let Some((destination, _)) = carried.first() {
            let others: BTreeSet<_> = carried.iter().flat_map(|(_, carrying)| carrying).copied().collect();
            let others: Vec<_> = others.into_iter().take(MOST).collect();
            let what = format!("carried by {}", others.join(", "));
            let message = destinations(carried.len(), *destination, &what);
            let action = format!("nothing: the flows return once {name} is up");
            findings.push(Finding::warning(Area::Connection, name, Code::RoutesCarriedByOthers, message, action));
        }
        findings
    }
}

fn destinations(count: usize, first: IpNet, what: &str) -> String {
    match count {
        1 => format!("destination {first} is {what}"),
        _ => format!("{count} destinations, such as {first}, are {what}"),
    }
}
