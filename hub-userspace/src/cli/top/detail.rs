//! The page of one connection: traffic, drops by reason, health, SAs and selectors, routes, events. Pure.

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::Line,
    widgets::{Paragraph, Wrap},
};

use super::{
    format::{age, clean, count, percent, round_trip, short},
    model::{Connection, Model},
    screen::{texts, trends},
    view::View,
};
use crate::{
    api_types::{
        event::ConnectionEvent,
        status::{ChildStatus, Health, IpsecStatus},
    },
    cli::table,
};

/// Maximum number of entries in each part; the commands for one part show all.
const MOST: usize = 20;

pub fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View, name: &str, connection: &Connection) {
    let [top, below] = Layout::vertical([Constraint::Length(6), Constraint::Fill(1)]).areas(area);
    trends(frame, top, name, connection);
    let lines = lines(model, name, connection);
    // Not past the end.
    let last = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(1);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((view.scroll.min(last), 0));
    frame.render_widget(text, below);
}

fn lines(model: &Model, name: &str, connection: &Connection) -> Vec<Line<'static>> {
    let status = &connection.status;
    let since = age(Duration::try_from_secs_f64(status.state_seconds).unwrap_or_default());
    let [rx_packets, rx_bits, tx_packets, tx_bits, _, share, ..] = texts(connection);
    let mut lines = vec![Line::raw(format!(
        "{} for {since} on {}  in {rx_packets}/s {rx_bits} bit/s  out {tx_packets}/s {tx_bits} bit/s  share {share}",
        connection.state(),
        clean(&status.interface),
    ))];
    lines.extend(status.state_reason.iter().map(|reason| Line::raw(clean(reason))));
    lines.extend(status.warnings.iter().map(|warning| Line::raw(format!("warning: {}", clean(warning)))));
    part(&mut lines, "Drops by reason", drops(connection));
    part(&mut lines, "Health", status.health.iter().flat_map(health).collect());
    part(&mut lines, "SAs", status.ipsec.iter().flat_map(ipsec).collect());
    part(&mut lines, "Routes", routes(model, name));
    let events = model.events.iter().rev().filter(|event| clean(&event.connection) == name).map(event);
    part(&mut lines, "Events, the last first", events.collect());
    lines
}

/// A heading and its entries, if it has any.
fn part(lines: &mut Vec<Line<'static>>, heading: &'static str, entries: Vec<String>) {
    if entries.is_empty() {
        return;
    }
    let more = entries.len().saturating_sub(MOST);
    lines.push(Line::styled(heading, Style::new().add_modifier(Modifier::BOLD)));
    lines.extend(entries.into_iter().take(MOST).map(|entry| Line::raw(format!("  {}", clean(&entry)))));
    if more > 0 {
        lines.push(Line::raw(format!("  and {more} more")));
    }
}

fn drops(connection: &Connection) -> Vec<String> {
    let counts = &connection.status.traffic.drops;
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let text = |(reason, count): (&std::borrow::Cow<'static, str>, &u64)| {
        let rate = connection.drop_rates.get(reason.as_ref()).copied().unwrap_or_default();
        format!("{reason:<20} {count:>12}  {:>5}/s", short(rate))
    };
    counts.into_iter().map(text).collect()
}

fn health(health: &Health) -> Vec<String> {
    let loss = match health.recent_probes {
        0 => "no probe answered or lost yet".to_owned(),
        probes => {
            let loss = percent(f64::from(health.recent_lost) / f64::from(probes));
            format!("{loss} of the last {probes} probes lost")
        }
    };
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), round_trip);
    let sum = format!("{loss}, round trip {}, {} sent", time(health.round_trip), health.sent);
    let targets = health.targets.iter().map(|target| {
        let replies = target.state.map_or("unknown", |state| match state {
            crate::connection::state::Health::Up | crate::connection::state::Health::Answers => "up",
            crate::connection::state::Health::Degraded => "degraded",
            crate::connection::state::Health::Down => "down",
        });
        format!(
            "{}: {replies}, round trip {}, {} of {} lost",
            target.destination,
            time(target.round_trip),
            target.lost,
            target.sent
        )
    });
    std::iter::once(sum).chain(targets).collect()
}

fn ipsec(ipsec: &IpsecStatus) -> Vec<String> {
    let ike = format!("IKE SA {}", ipsec.ike.as_deref().unwrap_or("none"));
    let fault = ipsec.fault.iter().map(|fault| format!("last fault: {fault}"));
    let child = |child: &ChildStatus| {
        let (bytes_in, bytes_out) = (short(count(child.bytes_in)), short(count(child.bytes_out)));
        let age = age(Duration::from_secs(child.seconds));
        let selectors = child.selectors.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        format!("{} in {bytes_in}B, {} out {bytes_out}B, {age}: {selectors}", child.spi_in, child.spi_out)
    };
    let children = ipsec.children.iter().map(child);
    let selectors = ipsec.selectors.iter().flatten().map(|selector| format!("in force: {selector}"));
    let missing = ipsec.missing.iter().map(|missing| format!("no SA for {}: {}", missing.selectors, missing.reason));
    let problems = ipsec.problems.iter().cloned();
    std::iter::once(ike).chain(fault).chain(children).chain(selectors).chain(missing).chain(problems).collect()
}

fn routes(model: &Model, name: &str) -> Vec<String> {
    let own = model.routes.iter().filter(|route| clean(&route.next_hop) == name);
    let text = |route: &crate::api_types::status::RouteStatus| {
        let problem = route.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        format!(
            "{:<20} weight {:>3}  share {:>4}  {}{problem}",
            route.destination.to_string(),
            route.weight,
            percent(route.share),
            route.origin
        )
    };
    own.map(text).collect()
}

/// In UTC, which needs no time zones of the host.
fn event(event: &ConnectionEvent) -> String {
    let seconds = Duration::try_from_secs_f64(event.time).unwrap_or_default().as_secs();
    let [hour, minute, second] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    let state = table::state(event.state, event.health);
    let reason = event.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{hour:02}:{minute:02}:{second:02} UTC {state}{reason}")
}
