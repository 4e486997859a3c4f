//! The ratio to the floor by routes, as SVG: a panel for each of the hub's interfaces, families, numbers of destinations
//! and lengths, a line a program. The floor is `bare`, and `bare-tc` where there is a TUN device.
//! On a ground of its own, so that it can be read on light pages and dark ones.

use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    element::{Circle, PathElement},
    prelude::{IntoLogRange as _, SVGBackend},
    series::LineSeries,
    style::{Color as _, IntoFont as _, RGBColor},
};

use super::{
    cases::{self, Dimensions, Interfaces, Program},
    results::Row,
    routes::Family,
};

const PANEL: (u32, u32) = (480, 400);
const FONT: &str = "Helvetica, Arial, sans-serif";
const GROUND: RGBColor = RGBColor(252, 252, 250);
const INK: RGBColor = RGBColor(40, 40, 40);
/// Colours that are distinguishable with colour blindness (Okabe and Ito).
const PROGRAMS: [(Program, RGBColor); 8] = [
    (Program::Bare, RGBColor(120, 120, 120)),
    (Program::BareTc, RGBColor(0, 0, 0)),
    (Program::Hub, RGBColor(213, 94, 0)),
    (Program::HubLpm, RGBColor(230, 159, 0)),
    (Program::HubTc, RGBColor(86, 180, 233)),
    (Program::Fib, RGBColor(0, 114, 178)),
    (Program::Kernel, RGBColor(0, 158, 115)),
    (Program::FlowTable, RGBColor(204, 121, 167)),
];

struct Panel {
    title: String,
    lines: Vec<Line>,
}

struct Line {
    program: Program,
    colour: RGBColor,
    /// Routes and ratio.
    points: Vec<(f64, f64)>,
}

pub fn svg(rows: &[Row], dimensions: &Dimensions) -> Result<String> {
    let panels = panels(rows, dimensions);
    let columns = panels.len().clamp(1, 2);
    let lines = panels.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * u32::try_from(columns)?, PANEL.1 * u32::try_from(lines)?);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&GROUND).map_err(drawing)?;
        // One height for all, so that they can be compared. The names are above the lines.
        let points = panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
        let top = points.map(|point| point.1).fold(1.0, f64::max) * 4.0;
        for (area, panel) in root.split_evenly((lines, columns)).iter().zip(&panels) {
            draw(area, panel, top).map_err(drawing)?;
        }
        root.present().map_err(drawing)?;
    }
    Ok(text)
}

/// Only those in which something was measured.
fn panels(rows: &[Row], dimensions: &Dimensions) -> Vec<Panel> {
    let mut panels = Vec::new();
    for &interfaces in &dimensions.interfaces {
        for &destinations in &dimensions.destinations {
            for &bytes in &dimensions.packet_bytes {
                for &family in &dimensions.families {
                    let panel = panel(rows, interfaces, family, destinations, bytes);
                    if !panel.lines.is_empty() {
                        panels.push(panel);
                    }
                }
            }
        }
    }
    panels
}

fn panel(rows: &[Row], interfaces: Interfaces, family: Family, destinations: u32, bytes: u32) -> Panel {
    let lines = PROGRAMS.iter().filter_map(|(program, colour)| {
        let fits = |row: &&Row| {
            let measured = &row.measured;
            let case = (measured.destinations, measured.packet_bytes);
            (row.interfaces, measured.program, measured.family) == (interfaces, *program, family)
                && case == cases::possible(family, measured.routes, destinations, bytes)
        };
        let point = |row: &Row| Some((f64::from(row.measured.routes), row.ratio_to_floor()?));
        let mut points: Vec<_> = rows.iter().filter(fits).filter_map(point).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        (!points.is_empty()).then_some(Line { program: *program, colour: *colour, points })
    });
    let up_to =
        if destinations == 1 { "1 destination".to_owned() } else { format!("up to {destinations} destinations") };
    let bytes = bytes.max(family.shortest());
    let title = format!("{}, IPv{}, {up_to}, {bytes} bytes", interfaces.name(), family.number());
    Panel { title, lines: lines.collect() }
}

type Failed = DrawingAreaErrorKind<std::io::Error>;

fn draw(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, panel: &Panel, top: f64) -> Result<(), Failed> {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| point.0).fold(0.0, f64::max);
    let text = |size: u32| (FONT, size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(&panel.title, text(16))
        .x_label_area_size(42)
        .y_label_area_size(52)
        .build_cartesian_2d((least / 1.5..most * 1.5).log_scale(), (0.8..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("routes")
        .y_desc("time per packet, bare redirect = 1")
        .x_label_formatter(&|routes| short(*routes))
        .y_label_formatter(&|ratio| round(*ratio))
        .y_labels(20)
        .x_max_light_lines(0)
        .y_max_light_lines(0)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK.mix(0.6))
        .label_style(text(13))
        .axis_desc_style(text(14))
        .draw()?;
    for Line { program, colour, points } in &panel.lines {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(program.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(GROUND.mix(0.9))
        .border_style(INK.mix(0.2))
        .label_font(text(13))
        .draw()
}

/// 1, 2, 5, 10, 20, ...: other ticks of a logarithmic axis are too close.
fn round(number: f64) -> String {
    let text = format!("{number:.0}");
    if matches!(text.trim_end_matches('0'), "1" | "2" | "5") { text } else { String::new() }
}

/// 10, 1k, 1M.
fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.0}M", number / 1e6),
        number if number >= 1e3 => format!("{:.0}k", number / 1e3),
        number => format!("{number:.0}"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn drawing(error: Failed) -> anyhow::Error {
    anyhow!("drawing the plot: {error}")
}

#[cfg(test)]
mod tests {
    use super::{super::results, *};

    #[test]
    fn axis_labels_are_abbreviated() {
        assert_eq!([10.0, 1000.0, 100_000.0, 1e6].map(short), ["10", "1k", "100k", "1M"]);
        assert_eq!([1.0, 2.0, 3.0, 9.0, 10.0, 30.0, 50.0].map(round), ["1", "2", "", "", "10", "", "50"]);
    }

    #[test]
    fn panel_has_one_line_per_program() {
        let row = |interfaces, program, (routes, destinations): (u32, u32), time| {
            let (floor, other) = if interfaces == Interfaces::Veth {
                (Program::Bare, Program::BareTc)
            } else {
                (Program::BareTc, Program::Bare)
            };
            let times = [(floor, vec![100.0]), (other, vec![]), (program, vec![time])];
            results::rows(interfaces, (Family::V4, routes), (destinations, 64), &times).pop().unwrap()
        };
        let rows = [
            row(Interfaces::Veth, Program::HubTc, (10, 10), 280.0),
            row(Interfaces::Veth, Program::HubLpm, (10, 10), 140.0),
            row(Interfaces::Veth, Program::Fib, (10, 10), 150.0),
            row(Interfaces::Veth, Program::Fib, (10_000, 1000), 250.0),
            row(Interfaces::Veth, Program::Fib, (10_000, 1), 110.0),
            row(Interfaces::Tun, Program::HubTc, (10, 10), 110.0),
        ];
        let dimensions = Dimensions {
            interfaces: vec![Interfaces::Veth, Interfaces::Tun],
            families: vec![Family::V4, Family::V6],
            routes: vec![10, 10_000],
            destinations: vec![1000],
            packet_bytes: vec![64],
        };
        let panels = panels(&rows, &dimensions);
        let titles: Vec<_> = panels.iter().map(|panel| panel.title.as_str()).collect();
        let title = "IPv4, up to 1000 destinations, 64 bytes";
        assert_eq!(titles, [format!("veth, {title}"), format!("tun, {title}")]);
        let lines: Vec<_> = panels[0].lines.iter().map(|line| (line.program, line.points.len())).collect();
        assert_eq!(lines, [(Program::HubLpm, 1), (Program::HubTc, 1), (Program::Fib, 2)]);
        assert_eq!((panels[0].lines[1].points[0].1, panels[1].lines[0].points[0].1), (2.8, 1.1));
        let mut colours: Vec<_> = PROGRAMS.iter().map(|(_, colour)| colour.rgb()).collect();
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), PROGRAMS.len());
        let svg = svg(&rows, &dimensions).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("fib") && !svg.contains("ip_forward"), "{svg}");
    }
}
