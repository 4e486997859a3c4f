//! `per_cpu_sas`: an SA for each CPU (RFC 9611).

use super::{
    super::{
        diagnostic::{DiagnosticReport, Problem, join},
        draft::Draft,
    },
    StartAction,
    rules::{Sites, ipsec_path, site_of, with_ipsec},
};

/// The kernel asks for the SA of a CPU by a trap policy, which needs the site's address.
pub(super) fn validate(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    for (connection, ipsec) in with_ipsec(draft) {
        let per_cpu = ipsec.esp.as_ref().and_then(|esp| esp.per_cpu_sas);
        let Some(per_cpu) = per_cpu.filter(|per_cpu| per_cpu.value) else { continue };
        let is_old = ipsec.ike.as_ref().and_then(|ike| ike.version).is_some_and(|version| version.value == 1);
        let waits = ipsec.start.is_some_and(|start| start.value == StartAction::None);
        let is_any = site_of(sites, connection).is_some_and(|site| site.value.is_any());
        let path = || join(&ipsec_path(connection, "esp"), "per_cpu_sas");
        if is_old {
            let problem = Problem::new("IKEv1 has no SAs for each CPU (RFC 9611)");
            report.error(per_cpu.at, path(), problem.help("remove per_cpu_sas, or write version = 2"));
        }
        if is_any {
            let problem = Problem::new("the kernel asks for the SA of a CPU, and the site's address is not known");
            let help = "remove per_cpu_sas, or give the customer gateway an address or a DNS name";
            report.error(per_cpu.at, path(), problem.help(help));
        } else if waits {
            let problem = Problem::new("the kernel asks for the SA of a CPU, which start = \"none\" does not allow");
            report.error(per_cpu.at, path(), problem.help("write start = \"start\" or \"trap\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{parse, show};

    fn text(address: &str, ipsec: &str) -> String {
        format!(
            r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[customer_gateway.a]
address = "{address}"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24"]
remote_cidrs = ["10.10.10.0/24"]
[connection.a.ipsec]
psk_file = "/nowhere/psk"
remote_id = "a"
{ipsec}
"#
        )
    }

    #[test]
    fn setting_survives_config_show() {
        for (ipsec, expected) in [("", false), ("esp.per_cpu_sas = false", false), ("esp.per_cpu_sas = true", true)] {
            let config = parse(&text("198.51.100.1", ipsec)).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
            assert_eq!(config.tunnel("a").map(|tunnel| tunnel.ipsec.esp.per_cpu_sas), Some(expected), "{ipsec}");
            let shown = show(&config);
            assert_eq!(shown.contains("per_cpu_sas"), expected, "{shown}");
            assert_eq!(parse(&shown).unwrap_or_else(|errors| panic!("{errors:#?}")).0, config);
        }
    }

    #[test]
    fn connection_that_cannot_have_them_is_rejected() {
        for (address, ipsec, expected) in [
            ("198.51.100.1", "start = \"trap\"", None),
            ("site.example.net", "", None),
            ("198.51.100.1", "allow_weak = true\nike.version = 1", Some("IKEv1 has no SAs for each CPU")),
            ("198.51.100.1", "start = \"none\"", Some("start = \"none\" does not allow")),
            ("any", "", Some("the site's address is not known")),
        ] {
            let result = parse(&text(address, &format!("{ipsec}\nesp.per_cpu_sas = true")));
            let all = result.err().into_iter().flatten().map(|error| error.to_string());
            let errors: Vec<String> = all.filter(|text| text.contains("error: ")).collect();
            let found: Vec<bool> = errors.iter().map(|error| error.contains(expected.unwrap_or("nothing"))).collect();
            assert_eq!(found, Vec::from_iter(expected.map(|_| true)), "{address} {ipsec}: {errors:#?}");
        }
    }
}
