//! `board`: a picture of the Grafana board, with the metrics of a hub in a lab.

mod draw;
mod series;
mod unit;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use hub_tests::{
    board::{Board, BoardLab, Event, Kind, Panel, legend},
    lab,
};

use crate::{
    build, demo,
    process::{self, Progress, workspace},
    setup::{self, host},
};
use series::Line;

const BOARD: &str = "contrib/grafana/vpnhub.json";
const PICTURE: &str = "docs/board.svg";
/// Prometheus's interval, and the distance of points in the picture.
const SCRAPE: Duration = Duration::from_secs(1);

/// What happens, in parts of a hundred of the time.
const EVENTS: [(u64, Event); 12] = [
    (15, Event::Rekeyed),
    (25, Event::TunnelEnds),
    (40, Event::TunnelReturns),
    (45, Event::Forbidden),
    (48, Event::Forbidden),
    (51, Event::Expired),
    (54, Event::Expired),
    (60, Event::TakenDown),
    (70, Event::Rekeyed),
    (75, Event::TakenUp),
    (80, Event::Forbidden),
    (84, Event::Expired),
];

/// Draws the Grafana board of contrib/ with the metrics of a hub: docs/board.svg.
///
/// Starts a hub with three sites in network namespaces of this host, with real IPsec, traffic and failures, and a real
/// Prometheus that scrapes the agent. Asks it all queries of the board, and draws each panel at its place. Grafana itself
/// does not take part. Needs root, otherwise uses sudo after the build.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask board\n  cargo xtask board --seconds 300 --output board.svg")]
pub struct Args {
    /// Time that the picture covers
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(60..=3600))]
    seconds: u64,
    /// The picture's file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do not build: set when the command runs itself through sudo, as root must not build in a user's directory
    #[arg(long, hide = true)]
    built: bool,
}

/// A panel, and what it shows.
pub struct Shown<'b> {
    pub panel: &'b Panel,
    pub lines: Vec<Line>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::runtime()?;
    setup::strongswan()?;
    setup::promtool()?;
    if !args.built {
        let built = build::run(&build::Args {})?;
        if built != ExitCode::SUCCESS {
            return Ok(built);
        }
    }
    if !host::is_root() {
        return demo::as_root();
    }
    lab::clean_up_on_interrupt()?;
    let drawn = draw(args);
    if drawn.is_err() {
        lab::park_if_interrupted();
    }
    drawn.map(|()| ExitCode::SUCCESS)
}

fn draw(args: &Args) -> Result<()> {
    let text = fs::read_to_string(workspace().join(BOARD)).with_context(|| format!("reading {BOARD}"))?;
    let board = Board::read(&text).with_context(|| BOARD.to_owned())?;
    let progress = Progress::start("starting the hub, its sites and Prometheus", None);
    let lab = BoardLab::start(&process::release_dir()?.join("vpnhub"), SCRAPE)?;
    drop(progress);
    let progress = Progress::start(&format!("traffic and failures for {} s", args.seconds), None);
    let times = live(&lab, args.seconds)?;
    drop(progress);
    let panels = board.panels.iter().map(|panel| ask(&lab, panel, times));
    let panels = panels.collect::<Result<Vec<_>>>()?;
    let picture = draw::svg(&board, &panels, times)?;
    let file = args.output.clone().unwrap_or_else(|| workspace().join(PICTURE));
    fs::write(&file, picture).with_context(|| format!("writing {}", file.display()))?;
    for shown in panels.iter().filter(|shown| shown.panel.kind != Kind::Row && shown.lines.is_empty()) {
        eprintln!("no data: {}", shown.panel.title);
    }
    println!("{}", file.display());
    lab.lab.stop()
}

/// Lets the events happen; returns begin and end, in seconds since 1970.
fn live(lab: &BoardLab, seconds: u64) -> Result<[f64; 2]> {
    let ends = AtomicBool::new(false);
    let begin = now();
    let started = Instant::now();
    thread::scope(|scope| {
        lab.traffic(scope, &ends);
        let happen = || {
            for (part, event) in EVENTS {
                let at = Duration::from_secs(seconds) * u32::try_from(part)? / 100;
                thread::sleep(at.saturating_sub(started.elapsed()));
                lab.happens(event).with_context(|| format!("{event:?}"))?;
            }
            thread::sleep(Duration::from_secs(seconds).saturating_sub(started.elapsed()));
            anyhow::Ok(())
        };
        let result = happen();
        ends.store(true, Ordering::Relaxed);
        result
    })?;
    Ok([begin, now()])
}

fn now() -> f64 {
    // A clock before 1970 is wrong anyway.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn ask<'b>(lab: &BoardLab, panel: &'b Panel, times: [f64; 2]) -> Result<Shown<'b>> {
    let mut lines = Vec::new();
    for target in &panel.targets {
        let found = lab.prometheus.range(&target.expression(SCRAPE), times, SCRAPE);
        for series in found.with_context(|| panel.title.clone())? {
            let name = legend(&target.legend, &series.labels);
            lines
                .push(Line { name, points: series.samples.iter().map(|sample| (sample.time, sample.value)).collect() });
        }
    }
    Ok(Shown { panel, lines })
}
