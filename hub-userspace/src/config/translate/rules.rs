//! Rules of one connection's translations, and their number on an interface. Those between sites are in
//! [`super::super::sites`].

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    super::{
        diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
        draft::{ConnectionDraft, Draft},
    },
    MOST_PARTS, TRANSLATIONS_PER_INTERFACE, Translation, TranslationDraft, Translations,
};

/// `members`: the draft with a connection for each tunnel.
pub(in crate::config) fn validate(draft: &Draft, members: &Draft, report: &mut DiagnosticReport<'_>) {
    check_numbers(members, report);
    for connection in draft.connections.iter().filter(|connection| !connection.translate.items.is_empty()) {
        // Too many, or invalid by themselves: reported already.
        let Some(translations) = connection.translate.translations() else { continue };
        check_overlaps(connection, report);
        check_remotes(connection, &translations, report);
    }
    for connection in members.connections.iter().filter(|connection| !connection.translate.items.is_empty()) {
        let Some(translations) = connection.translate.translations() else { continue };
        check_peer(connection, report);
        check_health_check(connection, &translations, report);
    }
}

/// The program compares an address with each translation of the interface.
fn check_numbers(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let mut counts: HashMap<(&str, bool), usize> = HashMap::new();
    for connection in &draft.connections {
        let Some(interface) = &connection.interface else { continue };
        let is_stored = report.origin(connection.name.at).is_none();
        for is_ipv4 in [true, false] {
            let all = connection.translate.items.iter();
            let own: Vec<_> = all.filter(|found| found.site.value.addr().is_ipv4() == is_ipv4).collect();
            let count = counts.entry((&interface.value, is_ipv4)).or_default();
            let before = *count;
            *count += own.len();
            // The first above the limit, and the first of each connection of the store.
            let most = TRANSLATIONS_PER_INTERFACE;
            let Some(first) = own.get(most.saturating_sub(before)).filter(|_| before <= most || is_stored) else {
                continue;
            };
            let problem = Problem::new(format!(
                "more than {most} translations of IPv{} on interface {}",
                if is_ipv4 { 4 } else { 6 },
                quoted(&interface.value)
            ));
            let help = "translate wider prefixes, or give the connections interfaces of their own";
            report.too_many(first.site.at, first.path(&connection.path()), problem.help(help));
        }
    }
}

/// One of the prefixes of a translation.
type Side = fn(&TranslationDraft) -> Located<IpNet>;

/// Each address has one translation.
fn check_overlaps(connection: &ConnectionDraft, report: &mut DiagnosticReport<'_>) {
    let sides: [(&str, Side); 2] = [("site", |translation| translation.site), ("hub", |translation| translation.hub)];
    for (key, side) in sides {
        for (index, translation) in connection.translate.items.iter().enumerate() {
            let here = side(translation);
            let earlier = connection.translate.items[..index].iter().map(side);
            let Some(other) = earlier.into_iter().find(|other| overlap(other.value, here.value)) else { continue };
            let place = report.place(here.at, other.at);
            let problem =
                Problem::new(format!("{} overlaps {} of the same connection ({place})", here.value, other.value));
            let path = join(&translation.path(&connection.path()), key);
            report.error(here.at, path, problem.help("give each address one translation: change one of the two"));
        }
    }
}

/// The translations fit the site's prefixes.
fn check_remotes(connection: &ConnectionDraft, translations: &Translations, report: &mut DiagnosticReport<'_>) {
    if !connection.remote_cidrs.sound {
        return;
    }
    let remotes = &connection.remote_cidrs.items;
    let list = join(&connection.path(), "remote_cidrs");
    for translation in &connection.translate.items {
        let Translation { site, hub } = translation.value();
        let path = translation.path(&connection.path());
        if !remotes.iter().any(|remote| overlap(remote.value, site)) {
            let problem = Problem::new(format!("{site} is not in {list}, so this is never used"));
            let help = "remote_cidrs has the site's own addresses: add the prefix there, or remove this translation";
            report.error(translation.site.at, join(&path, "site"), problem.help(help));
        }
        let is_replaced = translations.without_site(hub).is_empty();
        let hidden = remotes.iter().find(|remote| remote.value.prefix_len() != 0 && overlap(remote.value, hub));
        if let Some(hidden) = hidden.filter(|_| !is_replaced) {
            let place = report.place(translation.hub.at, hidden.at);
            let problem = Problem::new(format!(
                "{hub} overlaps the site's own {} ({place}): the site's hosts with these addresses are unreachable",
                hidden.value
            ));
            let help =
                "choose a hub prefix that neither the site nor another network uses, or translate these hosts, too";
            report.warning(translation.hub.at, join(&path, "hub"), problem.help(help));
        }
    }
    if let (None, Some(first)) = (connection.translate.unchanged(&connection.remote_cidrs), remotes.first()) {
        let problem = Problem::new(format!("the translations split these prefixes into more than {MOST_PARTS}"));
        report.error(first.at, list, problem.help("write the site's own prefixes instead of ones that contain them"));
    }
}

/// A peer is a neighbour on the link: neither a host of the site nor one that the hub believes to be there.
fn check_peer(connection: &ConnectionDraft, report: &mut DiagnosticReport<'_>) {
    let Some(peer) = connection.peer else { return };
    // A peer in `remote_cidrs` is reported already.
    if connection
        .remote_cidrs
        .items
        .iter()
        .any(|remote| remote.value.prefix_len() != 0 && remote.value.contains(&peer.value))
    {
        return;
    }
    let sides = connection.translate.items.iter().flat_map(|translation| [translation.site, translation.hub]);
    if let Some(side) = sides.into_iter().find(|side| side.value.contains(&peer.value)) {
        let place = report.place(peer.at, side.at);
        let problem = Problem::new(format!("{} lies in {}, which is translated ({place})", peer.value, side.value));
        let help =
            "name the link's other end, such as \"169.254.10.2\"; remove peer if the interface has no link layer";
        report.error(peer.at, join(&connection.path(), "peer"), problem.help(help));
    }
}

/// Destinations are hub-side addresses, the source one of the hub's own.
fn check_health_check(connection: &ConnectionDraft, translations: &Translations, report: &mut DiagnosticReport<'_>) {
    let Some(check) = &connection.health_check else { return };
    let path = join(&connection.path(), "health_check");
    let translation_of =
        |address: IpAddr| connection.translate.items.iter().find(|found| found.site.value.contains(&address));
    for destination in &check.destinations.items {
        let Some(translation) = translation_of(destination.value) else { continue };
        if translations.to_site(destination.value).is_some() {
            continue;
        }
        let place = report.place(destination.at, translation.site.at);
        let problem = Problem::new(format!(
            "{} is the site's own address, in {}, which is translated ({place})",
            destination.value, translation.site.value
        ));
        let at_hub = translations.to_hub(destination.value);
        let help = at_hub.map(|at_hub| format!("use its hub address {at_hub}")).unwrap_or_default();
        report.error(destination.at, join(&path, "destination"), problem.help(help));
    }
    if let Some(source) = check.source
        && let Some(translation) = translation_of(source.value)
    {
        let place = report.place(source.at, translation.site.at);
        let problem = Problem::new(format!(
            "the site uses {} itself, in {} ({place}), and does not answer to the hub",
            source.value, translation.site.value
        ));
        report.error(
            source.at,
            join(&path, "source"),
            problem.help("use an address of the hub that the site does not use"),
        );
    }
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}
