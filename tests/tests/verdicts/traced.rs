//! The same rows by `vpnhub trace`: the same verdict, connections, bytes and mark, and no count of the live program.

use std::{fmt::Write as _, sync::Arc};

use hub_tests::{
    model::{Account, Count, Prediction, Verdict, World},
    packet::hex,
};
use hub_userspace::{
    api_types::trace::{StageOutcome, Trace, TraceAction, TraceIngress},
    config::{Config, model::LookupKind},
    datapath::{Hook, Tracer},
    trace::{hex as digits, prepare::on_interface, report},
};

use crate::{
    program::{Arrival, Program, inputs},
    row::{Expected, Row},
};

const MARK_MASK: u32 = 0x1fff_0000;

/// Traces every row on interfaces with this program. With XDP there, TC follows, as on the wire.
///
/// # Errors
/// All rows that fail, with the frames.
pub fn check_traces(program: &mut Program, world: &World, rows: &[Expected]) -> anyhow::Result<()> {
    // Both hooks and both look-ups, in half of the combinations: loading takes the verifier most of the time.
    if !matches!(program.entry, (Hook::Xdp, LookupKind::Compiled) | (Hook::Tc, LookupKind::Lpm)) {
        return Ok(());
    }
    let mut tracer = program.tracer()?;
    let config = Arc::new(inputs(world).0);
    let before = program.books()?;
    let mut report = String::new();
    for expected in rows {
        let Some(prediction) = applies(program, world, expected) else { continue };
        let arrival = &expected.row.arrival;
        let trace = trace(&mut tracer, program, world, &config, arrival)?;
        for difference in differences(program, world, arrival, prediction, &trace)? {
            writeln!(report, "{:?}, traced: {difference}\n{trace:#?}", expected.row.name)?;
            writeln!(report, "in:\n{}", hex(&arrival.frame))?;
        }
    }
    if program.books()? != before {
        writeln!(report, "traces have changed the live counters")?;
    }
    anyhow::ensure!(report.is_empty(), "{report}");
    Ok(())
}

/// The row's verdict, if a packet on an interface with this program can have it.
fn applies<'e>(program: &Program, world: &World, expected: &'e Expected) -> Option<&'e Prediction> {
    let Expected { row: Row { arrival, .. }, prediction, only_at, .. } = expected;
    let (hook, _) = program.entry;
    let by_xdp = prediction.clone().by_xdp(world);
    let reaches_tc = hook == Hook::Tc || matches!(by_xdp.verdict, Verdict::Pass(_));
    let only = only_at.is_none_or(|only| only == hook && (hook == Hook::Tc || !reaches_tc));
    let can_run = program.gets(world, arrival) && (!reaches_tc || program.tc_gets(arrival));
    (only && can_run).then_some(prediction)
}

fn trace(
    tracer: &mut Tracer,
    program: &Program,
    world: &World,
    config: &Arc<Config>,
    arrival: &Arrival,
) -> anyhow::Result<Trace> {
    let ethernet = world.interfaces.iter().any(|other| other.index == arrival.interface && other.ethernet);
    let attach = if program.entry.0 == Hook::Xdp { "xdp-native" } else { "tc" };
    let ingress = TraceIngress {
        name: "row".into(),
        interface: format!("{}", arrival.interface),
        ifindex: arrival.interface,
        ethernet,
        attach: attach.into(),
    };
    let frame = arrival.frame.clone();
    let prepared = program.view(world, |view| on_interface(view, config, ingress, frame, arrival.taken_for));
    let run = tracer.run(&prepared.arrived, &prepared.explanation.likely)?;
    Ok(report(&prepared, &run))
}

fn differences(
    program: &mut Program,
    world: &World,
    arrival: &Arrival,
    prediction: &Prediction,
    trace: &Trace,
) -> anyhow::Result<Vec<String>> {
    let mut differences = trace.disagreements.clone();
    let mut compare = |what: &str, found: Option<String>, expected: Option<String>| {
        if found != expected {
            differences.push(format!("{what} {found:?}, not {expected:?}"));
        }
    };
    let (action, reason, frame) = match &prediction.verdict {
        Verdict::Forward { frame, .. } => (TraceAction::Forward, None, Some(frame)),
        Verdict::Pass(reason) => {
            (TraceAction::Pass, Some(*reason), Some(prediction.changed.as_ref().unwrap_or(&arrival.frame)))
        }
        Verdict::Drop(reason) => (TraceAction::Drop, Some(*reason), None),
    };
    let verdict = &trace.verdict;
    compare("action", Some(format!("{:?}", verdict.action)), Some(format!("{action:?}")));
    compare("reason", verdict.reason.clone(), reason.map(Into::into));
    let account = |wanted: fn(&Count) -> bool| {
        let found = prediction.counts.iter().find(|(_, count)| wanted(count)).map(|(account, _)| account);
        match found? {
            Account::Unattributed => None,
            Account::Vpc => Some("vpc".to_owned()),
            Account::Connection(name) => Some(name.clone()),
        }
    };
    compare("connection", verdict.connection.clone(), account(|count| !matches!(count, Count::Sent(_))));
    let sent_to = account(|count| matches!(count, Count::Sent(_)));
    compare("egress", verdict.egress.as_ref().map(|egress| egress.connection.clone()), sent_to);
    if let Verdict::Forward { interface, .. } = prediction.verdict {
        let name = world.interfaces.iter().find(|other| other.index == interface).map(|other| other.name.clone());
        compare("egress interface", verdict.egress.as_ref().map(|egress| egress.interface.clone()), name);
    }
    let last = trace.programs.last().map(|run| run.hook.clone()).unwrap_or_default();
    let frame = match (&prediction.verdict, frame) {
        // The row has the frame that TC sends; the program at egress completes it.
        (Verdict::Forward { interface, .. }, Some(frame)) if last == "egress" => {
            Some(program.leave(*interface, frame)?)
        }
        (_, frame) => frame.cloned(),
    };
    compare("bytes", trace.after.as_ref().map(|after| after.bytes.clone()), frame.map(|frame| digits::encode(&frame)));
    if action == TraceAction::Pass {
        let mark = program.marked(&Arrival { mark: 0, ..arrival.clone() }, prediction.mark.as_ref())? & MARK_MASK;
        let found = trace.slow_path.as_ref().map(|slow_path| slow_path.mark.clone());
        compare("mark", found, Some(format!("{mark:#010x}")));
    }
    let ends = trace.stages.iter().find(|stage| stage.outcome == StageOutcome::Stopped);
    let ends = ends.map(|stage| stage.stage.clone());
    compare("stage", ends, (action != TraceAction::Forward).then(|| verdict.stage.clone()));
    Ok(differences)
}
