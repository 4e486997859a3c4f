//! Traces of packets (`vpnhub trace`) against expected verdicts: connections, bytes and mark, too.

use std::sync::Arc;

use hub_tests::model::{Account, Count, Prediction, Verdict, World};
use hub_userspace::{
    api_types::trace::{StageOutcome, Trace, TraceAction, TraceIngress},
    config::Config,
    datapath::{Hook, Tracer},
    trace::{hex, prepare::on_interface, report},
};

use super::{Arrival, MARK_MASK, Program};

/// Traces an arrival on an interface with this program. With XDP there, TC follows, as on the wire.
pub fn trace(
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

/// Differences between a trace and the expected verdict, and contradictions within the trace.
pub fn differences(
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
            let raw = world.interfaces.iter().any(|other| other.index == *interface && !other.ethernet);
            let front = if raw { Arrival::new(*interface, frame.clone()).left_over() } else { Vec::new() };
            let mut left = program.leave(*interface, &[&front[..], frame].concat())?;
            left.drain(..front.len());
            Some(left)
        }
        (_, frame) => frame.cloned(),
    };
    compare("bytes", trace.after.as_ref().map(|after| after.bytes.clone()), frame.map(|frame| hex::encode(&frame)));
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
