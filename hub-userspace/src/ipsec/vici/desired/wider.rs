//! Changes of a connection that need not end its SAs.
//!
//! charon closes the SAs of a child with `start_action = start` whose settings change, or those of its connection, and
//! begins again (`clear_start_action`, `vici_config.c`): traffic is interrupted. So what concerns only the next negotiation
//! waits until the connection is down, and additional selectors get an SA of their own meanwhile.

use std::collections::BTreeSet;

use super::Message;
use crate::ipsec::vici::selector::TrafficSelector;

/// The lists of a child's selectors: in load-conn and in list-conn.
const SELECTORS: [(&str, &str); 2] = [("local_ts", "local-ts"), ("remote_ts", "remote-ts")];

/// What differs between two messages of a connection whose SAs may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Certificates,
    /// Additional selectors, and perhaps certificates.
    Selectors,
}

/// Whether the change from `old` to `new` may wait until the connection is down; `None` if it may not, or is none.
pub fn may_wait(old: &Message, new: &Message) -> Option<Waiting> {
    let bare = |message: &Message| {
        let end = |end, key| message.section(end).cloned().unwrap_or_default().without(key);
        let (local, remote) = (end("local-1", "certs"), end("remote-1", "cacerts"));
        (message.clone().without("local-1").without("remote-1").without("children"), local, remote)
    };
    if old == new || bare(old) != bare(new) {
        return None;
    }
    let (old, new) = (old.section("children"), new.section("children"));
    if old == new {
        return Some(Waiting::Certificates);
    }
    let (old, new) = (old?, new?);
    let names = |children: &Message| children.sections().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let is_wider = |(name, old): (&str, &Message)| new.section(name).is_some_and(|new| is_wider(old, new));
    (names(old) == names(new) && old.sections().all(is_wider)).then_some(Waiting::Selectors)
}

/// Whether a child that charon would begin again differs in nothing but additional selectors, if at all.
fn is_wider(old: &Message, new: &Message) -> bool {
    let is_begun = old.value("start_action").is_some_and(|action| action.split('|').any(|action| action == "start"));
    let bare = |child: &Message| SELECTORS.iter().fold(child.clone(), |child, (key, _)| child.without(key));
    is_begun && bare(old) == bare(new) && SELECTORS.iter().all(|(key, _)| is_part(old.list(key), new.list(key)))
}

/// Whether all of these selectors are among the others, whatever their order; not if one cannot be parsed.
fn is_part(some: &[String], all: &[String]) -> bool {
    let parsed =
        |list: &[String]| list.iter().map(|text| TrafficSelector::parse(text)).collect::<Option<BTreeSet<_>>>();
    parsed(some).zip(parsed(all)).is_some_and(|(some, all)| some.is_subset(&all))
}

/// The message of a connection with the selectors that an earlier agent has loaded, if they are part of the desired ones.
/// With it charon changes nothing. `listed` is the connection in `list-conn`.
pub fn narrowed(desired: &Message, listed: &Message) -> Option<Message> {
    let children = desired.section("children")?;
    let narrowed = children.sections().try_fold(Message::default(), |narrowed, (name, child)| {
        let listed = listed.section("children")?.section(name)?;
        let child = SELECTORS.iter().try_fold(child.clone(), |child, (key, listed_key)| {
            let (wide, loaded) = (child.list(key).to_vec(), listed.list(listed_key));
            if is_part(&wide, loaded) && is_part(loaded, &wide) {
                return Some(child);
            }
            (!loaded.is_empty() && is_part(loaded, &wide)).then(|| child.without(key).with_list(key, loaded.to_vec()))
        })?;
        Some(narrowed.with_section(name, child))
    })?;
    let narrowed = desired.clone().without("children").with_section("children", narrowed);
    (may_wait(&narrowed, desired) == Some(Waiting::Selectors)).then_some(narrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "10.1.0.0/24";
    const V6: &str = "fd61::/64";

    fn child(start: &str, remote: &[&str]) -> Message {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let child = Message::default().with_list("local_ts", list(&["192.168.0.0/24"]));
        child.with_list("remote_ts", list(remote)).with("start_action", start)
    }

    fn connection(version: &str, certificate: &str, children: &[(&str, Message)]) -> Message {
        let end = |key, value: &str| Message::default().with("auth", "pubkey").with_list(key, [value.to_owned()]);
        let children =
            children.iter().fold(Message::default(), |all, (name, child)| all.with_section(name, child.clone()));
        let message = Message::default().with("version", version).with_section("local-1", end("certs", certificate));
        message.with_section("remote-1", end("cacerts", "ca")).with_section("children", children)
    }

    #[test]
    fn certificates_and_additional_selectors_wait() {
        let one = |version, certificate, start, remote: &[&str]| {
            connection(version, certificate, &[("a", child(start, remote))])
        };
        let old = one("2", "x", "start", &[V4]);
        for (what, new, expected) in [
            ("nothing", old.clone(), None),
            ("another certificate", one("2", "y", "start", &[V4]), Some(Waiting::Certificates)),
            ("a selector more", one("2", "x", "start", &[V6, V4]), Some(Waiting::Selectors)),
            ("both", one("2", "y", "start", &[V4, V6]), Some(Waiting::Selectors)),
            ("another selector", one("2", "x", "start", &[V6]), None),
            ("another version", one("1", "x", "start", &[V4, V6]), None),
            ("another action", one("2", "x", "trap", &[V4, V6]), None),
            ("another child", connection("2", "x", &[("b", child("start", &[V4, V6]))]), None),
        ] {
            assert_eq!(may_wait(&old, &new), expected, "{what}");
        }
        // charon keeps the SAs of a child that it does not begin, and a site may propose the new selectors.
        for start in ["trap", "none"] {
            assert_eq!(may_wait(&one("2", "x", start, &[V4]), &one("2", "x", start, &[V4, V6])), None);
        }
        let per_cpu = |remote: &[&str]| one("2", "x", "trap|start", remote);
        assert_eq!(may_wait(&per_cpu(&[V4]), &per_cpu(&[V4, V6])), Some(Waiting::Selectors));
    }

    #[test]
    fn selectors_of_an_earlier_agent_stay_if_they_are_part_of_the_desired_ones() {
        let desired = connection("2", "x", &[("a", child("start", &[V4, V6]))]);
        let listed = |remote: &[&str]| {
            let child = Message::default().with_list("local-ts", ["192.168.0.0/24".to_owned()]);
            let remote = remote.iter().map(|text| (*text).to_owned());
            let children = Message::default().with_section("a", child.with_list("remote-ts", remote));
            Message::default().with_section("children", children)
        };
        let narrow = narrowed(&desired, &listed(&[V4])).expect("it is part");
        assert_eq!(may_wait(&narrow, &desired), Some(Waiting::Selectors));
        let child = narrow.section("children").and_then(|children| children.section("a")).expect("the child");
        assert_eq!(
            (child.list("local_ts"), child.list("remote_ts")),
            (&["192.168.0.0/24".to_owned()][..], &[V4.to_owned()][..])
        );
        for (what, remote) in
            [("all", &[V6, V4][..]), ("another", &["10.2.0.0/24"]), ("more", &[V4, V6, "10.2.0.0/24"]), ("none", &[])]
        {
            assert_eq!(narrowed(&desired, &listed(remote)), None, "{what}");
        }
        assert_eq!(narrowed(&desired, &Message::default()), None, "no children");
    }
}
