//! Output of `vpnhub diagnose`. The JSON is a contract: fields and codes may be added, never changed.

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diagnosis {
    /// Whether an agent answers.
    pub agent: bool,
    /// Number of findings with severity `error`.
    pub errors: usize,
    /// Number of findings with severity `warning`.
    pub warnings: usize,
    /// Errors first, then warnings, then what is in order.
    pub findings: Vec<Finding>,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    pub severity: Severity,
    pub area: Area,
    /// Name of the connection or interface, sysctl, key of the configuration, or part of the host.
    pub subject: String,
    pub code: Code,
    /// The error code of the cloud product's diagnosis for the same cause, such as `AlgorithmMismatch`, if it has one.
    pub cloud_code: Option<String>,
    /// What was found, in one sentence.
    pub message: String,
    /// What to do. Errors and warnings always have one.
    pub action: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Traffic is lost, or a check of packets is missing.
    Error,
    /// Traffic may be lost, is slow, or something will fail soon.
    Warning,
    Ok,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Area {
    Connection,
    Configuration,
    Interface,
    Host,
}

/// The stable name of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    // Connections.
    AdminDown,
    BridgePort,
    ConnectionDown,
    ConnectionUp,
    ConnectionWarning,
    HealthCheckFailed,
    HoldDown,
    InterfaceDown,
    NoHubAddress,
    ProbesLost,
    RoutesCarriedByOthers,
    RoutesUnreachable,
    SelectorsMissing,
    SelectorsNotAdmitted,
    SenderChecksum,
    SharedFlows,
    TunnelDown,
    // Configuration.
    Certificate,
    CertificateExpired,
    CertificateExpiresSoon,
    ChangesRejected,
    ConfigurationWarning,
    KernelObjectMissing,
    MetricsNotServed,
    Quota,
    ReloadNotConfirmed,
    RouteConflict,
    RouteNotPublished,
    SetAside,
    // Interfaces.
    Attachment,
    InterfaceMtu,
    InterfaceSetting,
    ReceiveQueues,
    Spread,
    Stranger,
    // The host.
    Agent,
    BpfJit,
    Btf,
    Clock,
    Datapath,
    Forwarding,
    IkeDaemon,
    IpRules,
    Kernel,
    Memory,
    NeighbourTable,
    NftablesTable,
    NotChecked,
}

impl Diagnosis {
    pub fn new(agent: bool, mut findings: Vec<Finding>) -> Self {
        // Stable: in the order of the checks within an area.
        findings.sort_by_key(|finding| (finding.severity, finding.area));
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self { agent, errors: count(Severity::Error), warnings: count(Severity::Warning), findings }
    }
}

impl Finding {
    pub fn ok(area: Area, subject: impl Into<String>, code: Code, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), message.into());
        Self { severity: Severity::Ok, area, subject, code, cloud_code: None, message, action: None }
    }

    pub fn warning(
        area: Area,
        subject: impl Into<String>,
        code: Code,
        message: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        let action = Some(action.into());
        Self { severity: Severity::Warning, action, ..Self::ok(area, subject, code, message) }
    }

    pub fn error(
        area: Area,
        subject: impl Into<String>,
        code: Code,
        message: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Error, ..Self::warning(area, subject, code, message, action) }
    }

    /// As `warning` or `error`, with a text of the status that may contain what to do.
    pub fn of_text(
        severity: Severity,
        area: Area,
        subject: impl Into<String>,
        code: Code,
        text: &str,
        otherwise: impl Into<String>,
    ) -> Self {
        let (message, action) = split(text);
        let action = action.map_or_else(|| otherwise.into(), str::to_owned);
        Self { severity, action: Some(action), ..Self::ok(area, subject, code, message) }
    }
}

/// First words of what to do, in texts of the status.
const IMPERATIVES: &[&str] = &[
    "`",
    "add ",
    "change ",
    "check ",
    "compare ",
    "configure ",
    "correct ",
    "create ",
    "detach ",
    "give ",
    "if it is this site",
    "if they are ",
    "install ",
    "let ",
    "load ",
    "lower ",
    "mount ",
    "name ",
    "put ",
    "raise ",
    "remove ",
    "rename ",
    "renew ",
    "replace ",
    "run ",
    "set ",
    "spread = ",
    "start ",
    "stop ",
    "the agent tries again",
    "use ",
    "wait",
    "write ",
];

/// Splits a text of the status, such as "interface tun0 is down: `ip link set tun0 up`", into what is wrong and what to
/// do. Without the second part all of it is what is wrong.
pub fn split(text: &str) -> (&str, Option<&str>) {
    let ends = text.match_indices([':', ';']);
    let parts = ends.filter_map(|(at, _)| Some((&text[..at], text[at + 1..].strip_prefix(' ')?)));
    let found = parts.filter(|(message, _)| !message.is_empty()).find(|(_, rest)| {
        let rest = rest.strip_prefix("help: ").unwrap_or(rest);
        IMPERATIVES.iter().any(|word| rest.starts_with(word))
    });
    found.map_or((text, None), |(message, rest)| (message, Some(rest.strip_prefix("help: ").unwrap_or(rest))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_before_what_to_do() {
        for (text, message, action) in [
            ("interface t is down: `ip link set t up`", "interface t is down", Some("`ip link set t up`")),
            ("health check: 10.0.0.1 no reply", "health check: 10.0.0.1 no reply", None),
            (
                "peer fe80::1 does not answer ARP on interface t; check the peer's address and the link",
                "peer fe80::1 does not answer ARP on interface t",
                Some("check the peer's address and the link"),
            ),
            ("it is wrong; help: add an address", "it is wrong", Some("add an address")),
            ("the site does not answer: check it: now", "the site does not answer", Some("check it: now")),
            ("wrong secret: hub and site differ", "wrong secret: hub and site differ", None),
            (": check", ": check", None),
            ("", "", None),
            ("a:b;c", "a:b;c", None),
        ] {
            assert_eq!(split(text), (message, action), "{text}");
        }
    }

    #[test]
    fn errors_come_first_and_are_counted() {
        let ok = Finding::ok(Area::Connection, "a", Code::ConnectionUp, "up");
        let warning = Finding::warning(Area::Host, "clock", Code::Clock, "not synchronized", "run chrony");
        let error = Finding::error(Area::Host, "agent", Code::Agent, "down", "start it");
        let of_connection = Finding::error(Area::Connection, "a", Code::TunnelDown, "down", "check it");
        let diagnosis = Diagnosis::new(true, vec![ok.clone(), error.clone(), warning.clone(), of_connection.clone()]);
        assert_eq!((diagnosis.errors, diagnosis.warnings), (2, 1));
        assert_eq!(diagnosis.findings, [of_connection, error, warning, ok]);
    }
}
