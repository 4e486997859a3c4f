//! The board as SVG: each panel at its place in the grid, drawn from Prometheus's answers.

mod text;

use anyhow::{Result, anyhow};
use hub_tests::board::{Board, Grid, Kind, Panel};
use plotters::{
    chart::ChartBuilder,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::{PathElement, Polygon, Rectangle},
    prelude::SVGBackend,
    series::LineSeries,
    style::{Color as _, RGBColor, ShapeStyle},
};

use self::text::{Anchor, Place, clipped, write};
use super::{
    SCRAPE, Shown,
    series::{Line, stacked},
    unit::shown,
};

/// Pixels of a column and of a row of the grid.
const COLUMN: u32 = 54;
const ROW: u32 = 28;
const HEAD: u32 = 44;
const FOOT: u32 = 52;
const GAP: i32 = 4;
const TITLE: i32 = 26;
const LINE: i32 = 17;

const PAGE: RGBColor = RGBColor(244, 245, 245);
const GROUND: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(36, 41, 46);
const FAINT: RGBColor = RGBColor(110, 118, 125);
/// Colours of Okabe and Ito, which are distinguishable with colour blindness, then darker ones.
const PALETTE: [RGBColor; 12] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(0, 60, 100),
    RGBColor(130, 50, 0),
    RGBColor(0, 90, 60),
    RGBColor(120, 50, 90),
    RGBColor(140, 100, 0),
];

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Failed = DrawingAreaErrorKind<std::io::Error>;

/// `times`: begin and end, in seconds since 1970.
pub fn svg(board: &Board, panels: &[Shown<'_>], times: [f64; 2]) -> Result<String> {
    let rows = panels.iter().map(|shown| shown.panel.grid.y + shown.panel.grid.height).max().unwrap_or(1);
    let size = (24 * COLUMN, HEAD + rows * ROW + FOOT);
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, size).into_drawing_area();
        page(&root, board, size, times).map_err(failed)?;
        for shown in panels {
            let Grid { x, y, width, height } = shown.panel.grid;
            let area = root.clone().shrink((x * COLUMN, HEAD + y * ROW), (width * COLUMN, height * ROW));
            panel(&area, shown, times).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(picture)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: Failed) -> anyhow::Error {
    anyhow!("drawing the board: {error}")
}

fn page(root: &Area<'_>, board: &Board, (width, height): (u32, u32), [begin, end]: [f64; 2]) -> Result<(), Failed> {
    root.fill(&PAGE)?;
    write(root, &board.title, Place { at: (12, 12), size: 20, colour: INK, anchor: Anchor::Start })?;
    let covered = format!("last {:.0} s, all gateways, all connections", end - begin);
    write(root, &covered, Place { at: (width as i32 - 12, 16), size: 13, colour: FAINT, anchor: Anchor::End })?;
    let notes = [
        "Drawn by `cargo xtask board` from contrib/grafana/vpnhub.json and the answers of a real Prometheus to its queries; \
         not by Grafana, which has other fonts and colours.",
        "A hub in a lab: three sites with IPsec, one of them with a leased line. Shanghai's tunnel ends and returns, Ningbo is \
         taken down and up, forbidden and expired packets arrive.",
    ];
    for (note, at) in notes.iter().zip([FOOT as i32 - 8, FOOT as i32 - 28]) {
        let place = Place { at: (12, height as i32 - at), size: 12, colour: FAINT, anchor: Anchor::Start };
        write(root, note, place)?;
    }
    Ok(())
}

fn panel(area: &Area<'_>, shown: &Shown<'_>, times: [f64; 2]) -> Result<(), Failed> {
    let panel = shown.panel;
    let (width, height) = area.dim_in_pixel();
    let (width, height) = (width as i32, height as i32);
    if panel.kind == Kind::Row {
        return write(area, &panel.title, Place { at: (10, 6), size: 15, colour: INK, anchor: Anchor::Start });
    }
    let frame = [(GAP, GAP), (width - GAP, height - GAP)];
    area.draw(&Rectangle::new(frame, ShapeStyle::from(&GROUND).filled()))?;
    area.draw(&Rectangle::new(frame, INK.mix(0.15)))?;
    let title = clipped(&panel.title, width - 24, 13);
    write(area, &title, Place { at: (12, 10), size: 13, colour: INK, anchor: Anchor::Start })?;
    if shown.lines.is_empty() {
        let place = Place { at: (width / 2, height / 2), size: 13, colour: FAINT, anchor: Anchor::Middle };
        return write(area, "no data", place);
    }
    match panel.kind {
        Kind::Stat => stat(area, shown, (width, height)),
        Kind::StateTimeline => timeline(area, shown, (width, height), times),
        _ => lines(area, shown, (width, height), times),
    }
}

/// The last value on a ground in the colour of its threshold.
fn stat(area: &Area<'_>, Shown { panel, lines }: &Shown<'_>, (width, height): (i32, i32)) -> Result<(), Failed> {
    let Some(value) = lines.iter().find_map(Line::last) else { return Ok(()) };
    let threshold = panel.thresholds.iter().rev().find(|(from, _)| value >= *from);
    let ground = threshold.map_or(FAINT, |(_, colour)| named(colour));
    let corners = [(GAP + 1, TITLE + 4), (width - GAP - 1, height - GAP - 1)];
    area.draw(&Rectangle::new(corners, ShapeStyle::from(&ground).filled()))?;
    let mapped = panel.mappings.get(&format!("{value}")).map(|(text, _)| text.clone());
    let text = mapped.unwrap_or_else(|| shown(value, &panel.unit));
    let place =
        Place { at: (width / 2, TITLE + (height - TITLE) / 2 - 15), size: 28, colour: GROUND, anchor: Anchor::Middle };
    write(area, &text, place)
}

/// A bar for each series, in the colours of its values.
fn timeline(
    area: &Area<'_>,
    Shown { panel, lines }: &Shown<'_>,
    (width, height): (i32, i32),
    times: [f64; 2],
) -> Result<(), Failed> {
    const NAMES: i32 = 110;
    const AXIS: i32 = 44;
    let room = height - TITLE - AXIS;
    let each = room / lines.len() as i32;
    let x = |time: f64| NAMES + (f64::from(width - NAMES - 24) * part(time, times)) as i32;
    let step = SCRAPE.as_secs_f64();
    for (number, line) in lines.iter().enumerate() {
        let top = TITLE + 6 + number as i32 * each;
        let place = Place { at: (NAMES - 8, top + each / 2 - 8), size: 12, colour: INK, anchor: Anchor::End };
        write(area, &clipped(&line.name, NAMES - 16, 12), place)?;
        for &(time, value) in &line.points {
            let mapped = panel.mappings.get(&format!("{value}"));
            let colour = mapped.and_then(|(_, colour)| colour.as_deref()).map_or(FAINT, named);
            let corners = [(x(time), top), (x(time + step).max(x(time) + 1), top + each - 5)];
            area.draw(&Rectangle::new(corners, ShapeStyle::from(&colour.mix(0.8)).filled()))?;
        }
    }
    for (time, label) in ticks(times) {
        let place = Place { at: (x(time), height - AXIS + 8), size: 11, colour: FAINT, anchor: Anchor::Middle };
        write(area, &label, place)?;
    }
    let mut left = NAMES;
    for (text, colour) in panel.mappings.values() {
        let corners = [(left, height - 18), (left + 12, height - 10)];
        let colour = colour.as_deref().map_or(FAINT, named);
        area.draw(&Rectangle::new(corners, ShapeStyle::from(&colour).filled()))?;
        write(area, text, Place { at: (left + 18, height - 21), size: 11, colour: INK, anchor: Anchor::Start })?;
        left += 110;
    }
    Ok(())
}

/// Lines or stacked areas, with a legend of the last values at the right.
fn lines(
    area: &Area<'_>,
    Shown { panel, lines }: &Shown<'_>,
    (width, height): (i32, i32),
    times: [f64; 2],
) -> Result<(), Failed> {
    let legend = if width > 500 { 275 } else { 200 };
    let plot = area.clone().shrink((GAP, TITLE), (width - legend - GAP, height - TITLE - GAP));
    let step = SCRAPE.as_secs_f64();
    let stacks = panel.is_stacked.then(|| stacked(lines, step));
    let tops = match &stacks {
        Some(stacks) => stacks.iter().map(|(_, top)| top.clone()).collect(),
        None => lines.clone(),
    };
    let [low, high] = limits(panel, &tops);
    let mut chart = ChartBuilder::on(&plot)
        .margin_top(6)
        .margin_right(10)
        .x_label_area_size(24)
        .y_label_area_size(66)
        .build_cartesian_2d(0.0..times[1] - times[0], low..high)?;
    chart
        .configure_mesh()
        .x_labels(if width > 500 { 8 } else { 4 })
        .x_label_formatter(&|offset| clock(*offset))
        .y_label_formatter(&|value| shown(*value, &panel.unit))
        .y_labels(5)
        .x_max_light_lines(0)
        .y_max_light_lines(0)
        .bold_line_style(INK.mix(0.1))
        .axis_style(INK.mix(0.3))
        .label_style(text::font(11, FAINT))
        .draw()?;
    for (number, line) in tops.iter().enumerate() {
        let colour = PALETTE[number % PALETTE.len()];
        let since_begin = |(time, value): (f64, f64)| (time - times[0], value);
        for part in line.parts(step) {
            if let Some(stacks) = &stacks {
                let lower = &stacks[number].0.points;
                let (first, last) = (part[0].0, part[part.len() - 1].0);
                let below = lower.iter().rev().filter(|point| (first..=last).contains(&point.0));
                let outline: Vec<_> = part.iter().chain(below).copied().map(since_begin).collect();
                chart.draw_series([Polygon::new(outline, colour.mix(0.4))])?;
            }
            chart.draw_series(LineSeries::new(part.into_iter().map(since_begin), colour.stroke_width(2)))?;
        }
    }
    self::legend(area, panel, lines, (width - legend, width, height))
}

fn legend(
    area: &Area<'_>,
    panel: &Panel,
    lines: &[Line],
    (left, width, height): (i32, i32, i32),
) -> Result<(), Failed> {
    let room = usize::try_from((height - TITLE - 12) / LINE).unwrap_or(0).max(1);
    let has_all = lines.len() <= room;
    let listed = if has_all { lines.len() } else { room - 1 };
    let mut top = TITLE + 4;
    for (number, line) in lines.iter().take(listed).enumerate() {
        let colour = PALETTE[number % PALETTE.len()];
        let dash = vec![(left, top + 7), (left + 12, top + 7)];
        area.draw(&PathElement::new(dash, colour.stroke_width(3)))?;
        let value = line.last().map(|value| shown(value, &panel.unit)).unwrap_or_default();
        let name = clipped(&line.name, width - left - 92, 11);
        write(area, &name, Place { at: (left + 18, top), size: 11, colour: INK, anchor: Anchor::Start })?;
        write(area, &value, Place { at: (width - 12, top), size: 11, colour: INK, anchor: Anchor::End })?;
        top += LINE;
    }
    if !has_all {
        let more = format!("and {} more", lines.len() - listed);
        write(area, &more, Place { at: (left + 18, top), size: 11, colour: FAINT, anchor: Anchor::Start })?;
    }
    Ok(())
}

/// Ends of the value axis: the panel's own, or with room around the values.
fn limits(panel: &Panel, lines: &[Line]) -> [f64; 2] {
    let values = || lines.iter().flat_map(|line| &line.points).map(|point| point.1).filter(|value| value.is_finite());
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
    let low = panel.limits[0].unwrap_or(least - (most - least) * 0.08);
    let room = if most > low { (most - low) * 0.08 } else { most.abs().max(1.0) * 0.1 };
    // An axis that ends at its fixed limit would cut half of the line.
    let high = panel.limits[1].map_or(most + room, |limit| limit * 1.02);
    [low, high.max(low + f64::MIN_POSITIVE)]
}

fn part(time: f64, [begin, end]: [f64; 2]) -> f64 {
    ((time - begin) / (end - begin)).clamp(0.0, 1.0)
}

/// Times with their labels, at full steps.
fn ticks([begin, end]: [f64; 2]) -> Vec<(f64, String)> {
    let length = end - begin;
    let steps = [10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let step = steps.into_iter().find(|step| length / step <= 8.0).unwrap_or(length / 4.0);
    let offsets = std::iter::successors(Some(0.0), |offset| Some(offset + step));
    offsets.take_while(|offset| *offset <= length).map(|offset| (begin + offset, clock(offset))).collect()
}

/// Minutes and seconds.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round().max(0.0);
    format!("{:.0}:{:02.0}", (seconds / 60.0).floor(), seconds % 60.0)
}

/// A colour by Grafana's name.
fn named(name: &str) -> RGBColor {
    match name {
        "green" => RGBColor(55, 135, 45),
        "red" => RGBColor(196, 22, 42),
        "orange" => RGBColor(250, 100, 0),
        "blue" => RGBColor(31, 96, 196),
        "purple" => RGBColor(143, 59, 184),
        _ => FAINT,
    }
}
