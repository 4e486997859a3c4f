//! The page of all connections, and the frame around both pages. Pure.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState},
};

use super::{
    detail,
    format::{count, percent, round_trip, short},
    model::{Connection, HISTORY, Model, Rates},
    view::{Page, SortKey, View},
};

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
/// Width from which each row has a sparkline of its own.
const WIDE: u16 = 110;
/// Lines of the two sparklines below the table, if the screen is high enough.
const TREND: u16 = 6;

/// Draws the page that the view has chosen.
pub fn draw(frame: &mut Frame<'_>, model: &Model, view: &View) {
    let layout = Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]);
    let [head, body, foot] = layout.areas(frame.area());
    frame.render_widget(Paragraph::new(header(model)), head);
    match view.selected(model).filter(|_| view.page == Page::Detail) {
        Some((name, connection)) => detail::draw(frame, body, model, view, name, connection),
        None => table(frame, body, model, view),
    }
    frame.render_widget(Paragraph::new(footer(view)).style(DIM), foot);
}

fn header(model: &Model) -> Vec<Line<'_>> {
    let connections = model.connections.values();
    let count = |state| connections.clone().filter(|connection| connection.state() == state).count();
    let mut total = Rates::default();
    for rates in connections.clone().filter_map(|connection| connection.rates) {
        total.rx_packets += rates.rx_packets;
        total.rx_bits += rates.rx_bits;
        total.drops += rates.drops;
    }
    let mut states = vec![Span::raw(format!("{} connections: ", model.connections.len()))];
    for (state, style) in [("up", PLAIN), ("degraded", colour(Color::Yellow)), ("down", colour(Color::Red))] {
        match count(state) {
            0 if state != "up" => {}
            number => states.push(Span::styled(format!("{number} {state} "), style)),
        }
    }
    match count("admin down") {
        0 => {}
        number => states.push(Span::raw(format!("{number} admin down "))),
    }
    let second = match &model.problem {
        Some(problem) => {
            Line::styled(format!("no answer, trying again; the last values follow: {problem}"), colour(Color::Red))
        }
        None => Line::raw(format!(
            "from the sites: {} packets/s, {} bit/s; dropped: {} packets/s",
            short(total.rx_packets),
            short(total.rx_bits),
            short(total.drops)
        )),
    };
    let mut first = vec![Span::styled("vpnhub top  ", BOLD), Span::styled(format!("{}  ", model.gateway), BOLD)];
    first.extend(states);
    vec![Line::from(first), second]
}

const fn colour(colour: Color) -> Style {
    Style::new().fg(colour)
}

fn footer(view: &View) -> String {
    match (view.page, view.is_typing) {
        (_, true) => format!("filter: {}_   Enter: keep  Esc: none", view.filter),
        (Page::Detail, _) => "Esc: back  arrows: scroll  q: quit".to_owned(),
        (Page::Table, _) if !view.filter.is_empty() => {
            format!("filter {}: Esc removes it  Enter: connection  q: quit", view.filter)
        }
        (Page::Table, _) => "Enter: connection  /: filter  sort: n t i o d r l, R reverses  q: quit".to_owned(),
    }
}

fn table(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &View) {
    let rows = view.rows(model);
    if rows.is_empty() {
        let text = match (model.connections.is_empty(), &model.problem) {
            (false, _) => "no connection matches the filter",
            (true, Some(_)) => "",
            (true, None) => "no connections",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let has_trend = area.height >= TREND + 6;
    let layout = Layout::vertical([Constraint::Fill(1), Constraint::Length(if has_trend { TREND } else { 0 })]);
    let [list, below] = layout.areas(area);
    let is_wide = area.width >= WIDE;
    let spark = area.width.saturating_sub(WIDE - 28).min(60);
    let is_old = model.problem.is_some();

    let mut names = vec![
        ("CONNECTION", Some(SortKey::Name)),
        ("STATE", Some(SortKey::State)),
        ("IN/s", None),
        ("bit/s", Some(SortKey::In)),
        ("OUT/s", None),
        ("bit/s", Some(SortKey::Out)),
        ("DROP/s", Some(SortKey::Drops)),
        ("SHARE", None),
        ("RTT", Some(SortKey::Rtt)),
        ("LOSS", Some(SortKey::Loss)),
    ];
    let mut widths = vec![Constraint::Fill(1), Constraint::Length(10)];
    widths.extend([5, 5, 5, 5, 6, 7, 6, 4].map(Constraint::Length));
    if is_wide {
        names.push(("IN AND OUT, 2 MINUTES", None));
        widths.push(Constraint::Length(spark));
    }
    let title_cell = |(index, (name, sort)): (usize, (&'static str, Option<SortKey>))| {
        let style = if sort == Some(view.sort) { REVERSED } else { BOLD };
        let text = if (2..10).contains(&index) { Line::raw(name).right_aligned() } else { Line::raw(name) };
        Cell::from(text.style(style))
    };
    let header = Row::new(names.into_iter().enumerate().map(title_cell));
    let body = rows.iter().map(|(name, connection)| {
        let mut cells = cells(name, connection);
        if is_wide {
            let traffic = |rates: &Rates| rates.rx_bits + rates.tx_bits;
            cells.push(Cell::from(sparkline(&columns(connection, spark, traffic))));
        }
        Row::new(cells).style(if is_old { DIM } else { PLAIN })
    });
    let table = Table::new(body, widths).header(header).column_spacing(1).row_highlight_style(REVERSED);
    let position = view.position(&rows);
    frame.render_stateful_widget(table, list, &mut TableState::new().with_selected(Some(position)));
    if has_trend && let Some((name, connection)) = rows.get(position) {
        trends(frame, below, name, connection);
    }
}

fn cells<'c>(name: &'c str, connection: &Connection) -> Vec<Cell<'c>> {
    let right = |text: String| Cell::from(Line::raw(text).right_aligned());
    let state = connection.state();
    let style = match state {
        "down" => colour(Color::Red),
        "degraded" => colour(Color::Yellow),
        _ => PLAIN,
    };
    let mut cells = vec![Cell::from(name), Cell::from(Span::styled(state, style))];
    cells.extend(texts(connection).map(right));
    cells
}

/// Rates in and out, drops, share, round trip and loss; `-` for what is not known.
pub fn texts(connection: &Connection) -> [String; 8] {
    let rate = |of: fn(&Rates) -> f64| connection.rates.as_ref().map(|rates| short(of(rates)));
    let share = connection.share.map(|(least, most)| match (percent(least), percent(most)) {
        (least, most) if least == most => most,
        (least, most) => format!("{}-{most}", least.trim_end_matches('%')),
    });
    let texts = [
        rate(|rates| rates.rx_packets),
        rate(|rates| rates.rx_bits),
        rate(|rates| rates.tx_packets),
        rate(|rates| rates.tx_bits),
        rate(|rates| rates.drops),
        share,
        connection.round_trip().map(round_trip),
        connection.loss().map(percent),
    ];
    texts.map(|text| text.unwrap_or_else(|| "-".to_owned()))
}

/// One of the rates.
type Rate = fn(&Rates) -> f64;

/// Two sparklines, of bits in and out.
pub fn trends(frame: &mut Frame<'_>, area: Rect, name: &str, connection: &Connection) {
    let layout =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)]);
    let [title_in, spark_in, title_out, spark_out] = layout.areas(area);
    let rates: [(&str, Rate); 2] = [("in", |rates| rates.rx_bits), ("out", |rates| rates.tx_bits)];
    for ((direction, of), (title, spark)) in rates.into_iter().zip([(title_in, spark_in), (title_out, spark_out)]) {
        let most = connection.history.iter().map(of).fold(0.0, f64::max);
        let text = format!("{name} {direction}, bit/s in {} s, at most {}", HISTORY.as_secs(), short(most));
        frame.render_widget(Paragraph::new(text).style(DIM), title);
        frame.render_widget(Sparkline::default().data(columns(connection, spark.width, of)), spark);
    }
}

/// The history in this many columns, the newest on the right: the mean of each column, in thousandths of the largest.
fn columns(connection: &Connection, width: u16, of: impl Fn(&Rates) -> f64) -> Vec<u64> {
    let (width, samples) = (usize::from(width), connection.history.len());
    if width == 0 || samples == 0 {
        return Vec::new();
    }
    let values: Vec<f64> = connection.history.iter().map(of).collect();
    let means: Vec<f64> = if samples <= width {
        std::iter::repeat_n(0.0, width - samples).chain(values).collect()
    } else {
        let part = |column: usize| &values[column * samples / width..(column + 1) * samples / width];
        (0..width).map(part).map(|part| part.iter().sum::<f64>() / count(part.len() as u64)).collect()
    };
    let most = means.iter().copied().fold(0.0, f64::max);
    // From 0 to 1000.
    #[expect(clippy::cast_sign_loss, reason = "rates are not negative")]
    means.into_iter().map(|mean| if most > 0.0 { (mean / most * 1000.0).ceil() as u64 } else { 0 }).collect()
}

/// One line of blocks.
fn sparkline(columns: &[u64]) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    columns.iter().map(|value| BLOCKS[(*value as usize * 8).div_ceil(1000).min(8)]).collect()
}
