//! The keys of `[connection.NAME.ipsec]`, and the rules within that section.

use std::{path::PathBuf, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    super::{
        diagnostic::{DiagnosticReport, Located, Problem, quoted},
        read::SectionReader,
        section::{List, Section},
        value,
    },
    AlgorithmKind, DEFAULT_DPD_DELAY, DEFAULT_ESP_LIFETIME, DEFAULT_ESP_PROPOSALS, DEFAULT_ESP_PROPOSALS_WITHOUT_PFS,
    DEFAULT_IKE_LIFETIME, DEFAULT_IKE_PROPOSALS, DEFAULT_INTERFACE_MTU, Identity, IkeV1Mode, Proposal, Protocol,
    StartAction,
    draft::{EspDraft, IdentityDraft, IkeDraft, IpsecDraft},
    interface_mtu::interface_mtu,
};

pub(in crate::config) const KEYS: &[&str] = &[
    "psk_file",
    "certificate",
    "private_key",
    "ca",
    "local_id",
    "remote_id",
    "start",
    "if_id",
    "create_interface",
    "interface_mtu",
    "encap",
    "dpd_delay",
    "allow_weak",
    "ike",
    "esp",
];
pub(in crate::config) const IKE_KEYS: &[&str] = &["version", "mode", "proposals", "lifetime"];
pub(in crate::config) const ESP_KEYS: &[&str] = &["proposals", "lifetime", "pfs", "per_cpu_sas"];
pub(in crate::config) const STARTS: [(&str, StartAction); 3] =
    [("trap", StartAction::Trap), ("start", StartAction::Start), ("none", StartAction::None)];
const MODES: [(&str, IkeV1Mode); 2] = [("main", IkeV1Mode::Main), ("aggressive", IkeV1Mode::Aggressive)];
/// `IKEv1` does not use AEAD algorithms to protect its own messages.
const DEFAULT_IKEV1_PROPOSALS: [&str; 2] = ["aes256-sha384-ecp384", "aes256-sha256-modp2048"];
const PSK_FILE: &str = "\"/etc/vpnhub/NAME.psk\"";

impl SectionReader<'_, '_> {
    /// `has_tunnels`: each tunnel of the connection has an `if_id`.
    pub(in crate::config) fn ipsec<'a>(
        &mut self,
        table: &'a Spanned<DeValue<'a>>,
        path: String,
        has_tunnels: bool,
    ) -> Option<IpsecDraft> {
        let shape = format!("[{path}] with psk_file = {PSK_FILE}");
        let section = self.open(table, path, KEYS, &shape)?;
        let auth_sound = self.check_auth(&section);
        let report = &mut *self.report;
        let mut draft = IpsecDraft {
            at: section.at,
            psk_file: section.optional("psk_file", report, value::path),
            certificate: section.optional("certificate", report, value::path),
            private_key: section.optional("private_key", report, value::path),
            ca: section.optional("ca", report, value::path),
            auth_sound,
            local_id: identity(&section, "local_id", report),
            remote_id: identity(&section, "remote_id", report),
            start: section.optional("start", report, |value| value::choice(value, &STARTS)),
            encap: section.or_default("encap", false, report, value::boolean),
            if_id: section.optional("if_id", report, |value| value::integer(value, 1..=u32::MAX)),
            create_interface: section.or_default("create_interface", false, report, value::boolean),
            interface_mtu: section.or_default("interface_mtu", DEFAULT_INTERFACE_MTU, report, interface_mtu),
            dpd_delay: section.or_default("dpd_delay", DEFAULT_DPD_DELAY, report, |value| {
                value::seconds(value, &(Duration::ZERO..=Duration::from_secs(3600)), "\"0s\" (never) to \"1h\"")
            }),
            allow_weak: section.or_default("allow_weak", false, report, value::boolean),
            ike: None,
            esp: None,
        };
        self.check_interface(&section, &draft, has_tunnels);
        draft.ike = self.ike(&section);
        draft.esp = self.esp(&section);
        self.check_weak(&section, &draft);
        Some(draft)
    }

    /// Only xfrm interfaces are created.
    fn check_interface(&mut self, section: &Section<'_>, draft: &IpsecDraft, has_tunnels: bool) {
        let Some(create) = draft.create_interface else { return };
        if create.value && section.lacks("if_id") && !has_tunnels {
            let problem = Problem::new("an xfrm interface needs an if_id");
            let help = "add if_id = 10, a number that no other interface has";
            self.report.error(create.at, section.path_of("create_interface"), problem.help(help));
        }
        if let (false, Some(mtu)) = (create.value, section.get("interface_mtu")) {
            let problem = Problem::new("the agent sets the MTU only of interfaces that it creates");
            let help = "add create_interface = true, or remove interface_mtu";
            self.report.error(mtu.span().start, section.path_of("interface_mtu"), problem.help(help));
        }
    }

    /// Whether there is exactly one authentication method, and it is complete.
    fn check_auth(&mut self, section: &Section<'_>) -> bool {
        let report = &mut *self.report;
        let has = |key: &str| section.get(key).is_some();
        let mut sound = true;
        let mut wrong = |at: usize, path: String, message: &str, help: String| {
            report.error(at, path, Problem::new(message).help(help));
            sound = false;
        };
        let at = |key: &str| section.get(key).map_or(section.at, |value| value.span().start);
        match (has("psk_file"), has("certificate"), has("private_key")) {
            (true, true, _) | (true, _, true) => {
                let key = if has("certificate") { "certificate" } else { "private_key" };
                let message = "the connection has a pre-shared key and a certificate";
                wrong(
                    at(key),
                    section.path_of(key),
                    message,
                    "remove psk_file, or certificate and private_key".to_owned(),
                );
            }
            (false, true, false) if section.lacks("private_key") => {
                let message = "the certificate has no private key";
                wrong(
                    at("certificate"),
                    section.path.clone(),
                    message,
                    "add private_key = \"/etc/vpnhub/hub.key\"".to_owned(),
                );
            }
            (false, false, true) if section.lacks("certificate") => {
                let message = "the private key has no certificate";
                wrong(
                    at("private_key"),
                    section.path.clone(),
                    message,
                    "add certificate = \"/etc/vpnhub/hub.crt\"".to_owned(),
                );
            }
            (false, false, false) if section.lacks("psk_file") && section.lacks("certificate") => {
                let message = "no authentication is configured between hub and site";
                wrong(
                    section.at,
                    section.path.clone(),
                    message,
                    format!("add psk_file = {PSK_FILE}, or certificate and private_key"),
                );
            }
            _ => {}
        }
        if has("ca") && has("psk_file") && !has("certificate") {
            let message = "a pre-shared key needs no CA";
            wrong(at("ca"), section.path_of("ca"), message, "remove it, or use certificate and private_key".to_owned());
        }
        sound
    }

    fn ike(&mut self, ipsec: &Section<'_>) -> Option<IkeDraft> {
        let empty = Spanned::new(ipsec.at..ipsec.at, DeValue::Table(DeTable::new()));
        let table = ipsec.get("ike").unwrap_or(&empty);
        let section = self.open(table, ipsec.path_of("ike"), IKE_KEYS, "ike = { lifetime = \"24h\" }")?;
        let report = &mut *self.report;
        let version = section.or_default("version", 2, report, |value| value::integer(value, 1..=2));
        let mode = section.optional("mode", report, |value| value::choice(value, &MODES));
        if let (Some(mode), Some(Located { value: 2, .. })) = (mode, version) {
            let problem = Problem::new("IKEv2 has no modes").help("remove mode; it is for version = 1");
            report.error(mode.at, section.path_of("mode"), problem);
        }
        let is_old = version.is_some_and(|version| version.value == 1);
        let default = if is_old { DEFAULT_IKEV1_PROPOSALS } else { DEFAULT_IKE_PROPOSALS };
        let proposals = proposals(&section, &default, Protocol::Ike, report, |proposal| match proposal {
            Proposal { encryption, .. } if is_old && encryption.kind == AlgorithmKind::Aead => {
                Err(Problem::new(format!("IKEv1 cannot use {encryption}"))
                    .help(format!("write {}", quoted(DEFAULT_IKEV1_PROPOSALS[0]))))
            }
            Proposal { prf: Some(prf), .. } if is_old => {
                Err(Problem::new(format!("IKEv1 does not negotiate {prf}")).help(format!("remove -{prf}")))
            }
            _ => Ok(()),
        });
        let lifetime = lifetime(&section, DEFAULT_IKE_LIFETIME, report);
        Some(IkeDraft { version, mode, proposals, lifetime })
    }

    fn esp(&mut self, ipsec: &Section<'_>) -> Option<EspDraft> {
        let empty = Spanned::new(ipsec.at..ipsec.at, DeValue::Table(DeTable::new()));
        let table = ipsec.get("esp").unwrap_or(&empty);
        let section = self.open(table, ipsec.path_of("esp"), ESP_KEYS, "esp = { lifetime = \"1h\" }")?;
        let report = &mut *self.report;
        let pfs = section.or_default("pfs", true, report, value::boolean);
        let wants_group = pfs.map(|pfs| pfs.value);
        let default =
            if wants_group == Some(false) { DEFAULT_ESP_PROPOSALS_WITHOUT_PFS } else { DEFAULT_ESP_PROPOSALS };
        let proposals =
            proposals(&section, &default, Protocol::Esp, report, |proposal| match (wants_group, proposal.group) {
                (Some(true), None) => Err(Problem::new(format!(
                    "{proposal} has no Diffie-Hellman group, which perfect forward secrecy needs"
                ))
                .help(format!("write {}", quoted(&format!("{proposal}-ecp384"))))),
                (Some(false), Some(group)) => {
                    Err(Problem::new(format!("{proposal} has the group {group}, and pfs = false"))
                        .help(format!("remove -{group}, or pfs = false")))
                }
                _ => Ok(()),
            });
        let lifetime = lifetime(&section, DEFAULT_ESP_LIFETIME, report);
        let per_cpu_sas = section.or_default("per_cpu_sas", false, report, value::boolean);
        Some(EspDraft { proposals, lifetime, pfs, per_cpu_sas })
    }

    /// Weak settings are an error, or a warning if they are allowed.
    fn check_weak(&mut self, section: &Section<'_>, draft: &IpsecDraft) {
        let Some(allowed) = draft.allow_weak else { return };
        let mut found = false;
        let mut weak = |at: usize, path: String, what: String, instead: &str| {
            found = true;
            let problem = Problem::new(what);
            if allowed.value {
                self.report.warning(
                    at,
                    path,
                    problem.help(format!("{instead} as soon as the site's device supports it")),
                );
            } else {
                let help =
                    format!("{instead}, or set allow_weak = true if the site's device supports nothing stronger");
                self.report.error(at, path, problem.help(help));
            }
        };
        let parts = [
            ("ike", Protocol::Ike, draft.ike.as_ref().map(|ike| &ike.proposals)),
            ("esp", Protocol::Esp, draft.esp.as_ref().map(|esp| &esp.proposals)),
        ];
        for (key, protocol, list) in parts {
            for Located { value: proposal, at } in list.into_iter().flat_map(|list| &list.items) {
                let weaknesses: Vec<String> = proposal.weaknesses().collect();
                if !weaknesses.is_empty() {
                    let path = format!("{}.proposals", section.path_of(key));
                    weak(*at, path, weaknesses.join(", "), &format!("use {}", quoted(protocol.example())));
                }
            }
        }
        if let Some(ike) = &draft.ike
            && let Some(Located { value: 1, at }) = ike.version
        {
            let path = section.path_of("ike");
            weak(at, format!("{path}.version"), "IKEv1 is obsolete (RFC 9395)".to_owned(), "use version = 2");
            if let Some(Located { value: IkeV1Mode::Aggressive, at }) = ike.mode
                && draft.psk_file.is_some()
            {
                let what = "aggressive mode reveals a hash of the secret, which allows offline guessing".to_owned();
                weak(at, format!("{path}.mode"), what, "use mode = \"main\"");
            }
        }
        if let Some(Located { value: false, at }) = draft.esp.as_ref().and_then(|esp| esp.pfs) {
            let what = "without perfect forward secrecy, one compromised key exposes the traffic of all later ones";
            weak(at, format!("{}.pfs", section.path_of("esp")), what.to_owned(), "remove pfs = false");
        }
        if allowed.value && !found && draft.ike.is_some() && draft.esp.is_some() {
            let problem = Problem::new("allow_weak has no effect: no setting here is weak").help("remove allow_weak");
            self.report.warning(allowed.at, section.path_of("allow_weak"), problem);
        }
    }
}

pub(in crate::config) fn identity(
    section: &Section<'_>,
    key: &'static str,
    report: &mut DiagnosticReport<'_>,
) -> IdentityDraft {
    match section.optional(key, report, |value| value::string(value).and_then(Identity::of)) {
        Some(identity) => IdentityDraft::Read(identity.value),
        None if section.get(key).is_some() => IdentityDraft::Wrong,
        None => IdentityDraft::Absent,
    }
}

fn lifetime(section: &Section<'_>, default: Duration, report: &mut DiagnosticReport<'_>) -> Option<Located<Duration>> {
    let range = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);
    section.or_default("lifetime", default, report, |value| value::seconds(value, &range, "\"10s\" to \"24h\""))
}

fn proposals<'a>(
    section: &Section<'a>,
    default: &[&str],
    protocol: Protocol,
    report: &mut DiagnosticReport<'_>,
    check: impl Fn(&Proposal) -> Result<(), Problem>,
) -> List<Proposal> {
    let default = default.iter().filter_map(|text| Proposal::of(text, protocol).ok()).collect();
    let example = format!("[{}]", quoted(protocol.example()));
    section.list_or_default("proposals", default, &example, report, |value: &'a DeValue<'a>| {
        let proposal = value::string(value).and_then(|text| Proposal::of(text, protocol))?;
        check(&proposal).map(|()| proposal)
    })
}

/// The files that a draft names, each with its key; files that must be private come first.
pub(super) fn files(draft: &IpsecDraft) -> impl Iterator<Item = (&'static str, &Located<PathBuf>)> {
    let IpsecDraft { psk_file, private_key, certificate, ca, .. } = draft;
    let all = [("psk_file", psk_file), ("private_key", private_key), ("certificate", certificate), ("ca", ca)];
    all.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?)))
}
