//! Reads `tunnels`: a list of tables.

use std::collections::HashMap;

use toml::{Spanned, de::DeValue};

use super::{
    super::{
        diagnostic::{Located, Problem, counted, quoted},
        entries::weight,
        ipsec::{STARTS, identity},
        model::DEFAULT_WEIGHT,
        read::SectionReader,
        section::Section,
        value::{self, describe},
    },
    MAX_TUNNELS,
    draft::{TunnelDraft, TunnelIpsecDraft, TunnelsDraft},
};

pub(in crate::config) const KEY: &str = "tunnels";
const EXAMPLE: &str =
    "[{ name = \"a\", interface = \"xfrm-a\" }, { name = \"b\", interface = \"xfrm-b\", weight = 0 }]";
pub(in crate::config) const KEYS: &[&str] =
    &["name", "interface", "weight", "customer_gateway", "peer", "health_check", "ipsec"];
pub(in crate::config) const IPSEC_KEYS: &[&str] = &["if_id", "start", "local_id", "remote_id"];
/// A tunnel's name is a part of its connection's names in messages and metrics.
const MAX_NAME_CHARACTERS: usize = 15;

impl SectionReader<'_, '_> {
    /// The tunnels of a connection.
    pub fn tunnels(&mut self, connection: &Section<'_>) -> TunnelsDraft {
        let mut tunnels = TunnelsDraft { items: Vec::new(), is_present: false, sound: true };
        let Some(found) = connection.get(KEY) else { return tunnels };
        (tunnels.is_present, tunnels.sound) = (true, false);
        let (at, path) = (found.span().start, connection.path_of(KEY));
        let elements = match found.get_ref() {
            DeValue::Array(elements) => elements,
            other => {
                let problem = Problem::new(format!("must be a list of tables, is {}", describe(other)));
                self.report.error(at, path, problem.help(format!("write {KEY} = {EXAMPLE}")));
                return tunnels;
            }
        };
        let problem = match elements.len() {
            0 => Some((at, Problem::new("the list is empty").help(format!("write {KEY} = {EXAMPLE}")))),
            1 => {
                let problem = Problem::new("one tunnel alone needs no list");
                let help = "write interface = \"xfrm-a\" and the tunnel's other keys in the connection itself, or add \
                            a second tunnel";
                Some((at, problem.help(help)))
            }
            count if count > MAX_TUNNELS => {
                let problem = Problem::new(format!("{} are too many", counted(count, "tunnel")));
                let help = format!("a connection has {MAX_TUNNELS} at most: make the others a connection of their own");
                Some((elements[MAX_TUNNELS].span().start, problem.help(help)))
            }
            _ => None,
        };
        tunnels.sound = problem.is_none();
        if let Some((at, problem)) = problem {
            self.report.error(at, path.as_str(), problem);
        }
        for (index, element) in elements.iter().enumerate().take(MAX_TUNNELS) {
            let shape = "{ name = \"a\", interface = \"xfrm-a\" }";
            match self.open(element, format!("{path}[{}]", index + 1), KEYS, shape) {
                Some(section) => tunnels.items.push(self.tunnel(index + 1, &section, connection)),
                None => tunnels.sound = false,
            }
        }
        tunnels.sound &= tunnels.items.iter().all(|tunnel| tunnel.name.is_some() && tunnel.interface.is_some());
        self.check_unique(&tunnels, &path);
        if tunnels.sound && tunnels.items.iter().all(|tunnel| tunnel.weight.is_some_and(|weight| weight.value == 0)) {
            let problem = Problem::new("every tunnel has weight 0, so all stand by for another one");
            self.report.error(at, path, problem.help("give the active tunnel weight = 100"));
        }
        tunnels
    }

    fn tunnel(&mut self, number: usize, section: &Section<'_>, connection: &Section<'_>) -> TunnelDraft {
        let report = &mut *self.report;
        let tunnel = TunnelDraft {
            number,
            at: section.at,
            name: section.required("name", "\"a\"", report, name),
            interface: section.required("interface", "\"xfrm-a\"", report, value::interface),
            weight: section.or_default("weight", DEFAULT_WEIGHT, report, weight),
            customer_gateway: section.optional("customer_gateway", report, value::reference),
            peer: section.optional("peer", report, value::host_address),
            health_check: None,
            ipsec: None,
        };
        let health_check =
            section.get("health_check").and_then(|table| self.health_check(table, section.path_of("health_check")));
        let ipsec = section.get("ipsec").and_then(|table| self.tunnel_ipsec(table, section, connection));
        TunnelDraft { health_check, ipsec, ..tunnel }
    }

    fn tunnel_ipsec<'a>(
        &mut self,
        table: &'a Spanned<DeValue<'a>>,
        tunnel: &Section<'_>,
        connection: &Section<'_>,
    ) -> Option<TunnelIpsecDraft> {
        let section = self.open(table, tunnel.path_of("ipsec"), IPSEC_KEYS, "ipsec = { if_id = 10 }")?;
        let report = &mut *self.report;
        if connection.lacks("ipsec") {
            let problem = Problem::new("the connection has no [ipsec] section, of which these are single keys");
            let help = format!("add [{}], or remove ipsec here", connection.path_of("ipsec"));
            report.error(section.at, section.path.clone(), problem.help(help));
        }
        Some(TunnelIpsecDraft {
            at: section.at,
            if_id: section.optional("if_id", report, |value| value::integer(value, 1..=u32::MAX)),
            has_if_id: !section.lacks("if_id"),
            start: section.optional("start", report, |value| value::choice(value, &STARTS)),
            local_id: identity(&section, "local_id", report),
            remote_id: identity(&section, "remote_id", report),
        })
    }

    /// Names and interfaces are for one tunnel each.
    fn check_unique(&mut self, tunnels: &TunnelsDraft, path: &str) {
        type Field = fn(&TunnelDraft) -> Option<&Located<String>>;
        let fields: [(&str, Field, &str); 2] = [
            ("name", |tunnel| tunnel.name.as_ref(), "give each tunnel a name of its own"),
            ("interface", |tunnel| tunnel.interface.as_ref(), "give each tunnel an interface of its own"),
        ];
        for (key, field, help) in fields {
            let mut first = HashMap::new();
            for tunnel in &tunnels.items {
                let Some(Located { value, at }) = field(tunnel) else { continue };
                if let Some(&other) = first.get(value) {
                    let place = self.report.place(*at, other);
                    let problem = Problem::new(format!(
                        "{} is also the {key} of another tunnel of this connection ({place})",
                        quoted(value)
                    ));
                    self.report.error(*at, format!("{path}[{}].{key}", tunnel.number), problem.help(help));
                } else {
                    first.insert(value, *at);
                }
            }
        }
    }
}

fn name(value: &DeValue<'_>) -> Result<String, Problem> {
    let name = value::string(value)?;
    value::check_name(name)?;
    if name.len() > MAX_NAME_CHARACTERS {
        let problem = Problem::new(format!("the name {} has {} characters", quoted(name), name.len()));
        return Err(problem.help(format!("use {MAX_NAME_CHARACTERS} at most, such as \"a\" or \"backup\"")));
    }
    Ok(name.to_owned())
}
