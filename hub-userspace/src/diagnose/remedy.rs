//! Texts of the status, most of which contain what to do. Pure.

use crate::api_types::diagnose::{Area, Code, Finding, Severity};

/// A finding with a text of the status; `otherwise` is what to do if the text does not say it.
pub fn finding(
    severity: Severity,
    area: Area,
    subject: impl Into<String>,
    code: Code,
    text: &str,
    otherwise: impl Into<String>,
) -> Finding {
    let (message, action) = split(text);
    let action = action.map_or_else(|| otherwise.into(), str::to_owned);
    Finding { severity, action: Some(action), ..Finding::ok(area, subject, code, message) }
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
    use super::split;

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
}
