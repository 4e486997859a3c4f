//! Output of `vpnhub diagnose`. The JSON is a contract: fields and codes may be added, never changed.

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Traffic is lost, or a check of packets is missing.
    Error,
    /// Traffic may be lost, is slow, or something will fail soon.
    Warning,
    Ok,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    Connection,
    Configuration,
    Interface,
    Host,
}

/// The stable name of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    // Connections.
    AdminDown,
    AsymmetricReplies,
    BridgePort,
    ConnectionDown,
    ConnectionUp,
    ConnectionWarning,
    HealthCheckFailed,
    HoldDown,
    InterfaceDown,
    LearnedRefused,
    NoHubAddress,
    PathMtu,
    PerCpuSas,
    ProbesLost,
    Degraded,
    TargetsSilent,
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
    Role,
    RouteConflict,
    RouteNotPublished,
    SetAside,
    // Interfaces.
    Attachment,
    InterfaceMtu,
    InterfaceSetting,
    Offload,
    ReceiveQueues,
    RedirectTarget,
    Spread,
    Stranger,
    // The host.
    Agent,
    BpfFeatures,
    BpfJit,
    Btf,
    Clock,
    CpuLoad,
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

    /// Makes an error a warning.
    pub fn at_most_a_warning(&mut self) {
        if self.severity == Severity::Error {
            self.severity = Severity::Warning;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
