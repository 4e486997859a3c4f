//! Traces for people.

use std::fmt::Write as _;

use super::table::table;
use crate::api_types::trace::{
    CaptureTrace, FieldChange, StageOutcome, Trace, TraceAction, TraceLookup, TraceOrigin, TraceVerdict, UntracedCount,
    VerdictCount,
};

/// A trace, stage by stage.
pub fn trace(trace: &Trace) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, trace);
    text
}

fn write(text: &mut String, trace: &Trace) -> std::fmt::Result {
    let Trace { ingress, packet, after, changes, programs, stages, verdict, slow_path, disagreements } = trace;
    writeln!(text, "in       {} on {} ({})", ingress.name, ingress.interface, ingress.attach)?;
    writeln!(text, "packet   {}", packet.summary)?;
    let ran: Vec<String> = programs.iter().map(|run| format!("{} {}", run.hook, run.action)).collect();
    writeln!(text, "programs {}\n", ran.join(", then "))?;
    for (number, stage) in stages.iter().enumerate() {
        let outcome = match stage.outcome {
            StageOutcome::Done => "",
            StageOutcome::Stopped => "  <-- ends here",
            StageOutcome::NotReached => "  not reached",
        };
        writeln!(text, "{} {}{outcome}", number + 1, stage.stage)?;
        for TraceLookup { what, key, found, origins } in &stage.lookups {
            writeln!(text, "    {what} {key}: {found}")?;
            for origin in origins {
                writeln!(text, "        {}", origin_text(origin))?;
            }
        }
    }
    writeln!(text, "\nverdict  {}", verdict_text(verdict))?;
    writeln!(text, "         {}", verdict.explanation)?;
    if let Some(connection) = &verdict.connection {
        writeln!(text, "counted  for {connection}")?;
    }
    if let Some(slow_path) = slow_path {
        writeln!(text, "then     {} (mark {})", slow_path.meaning, slow_path.mark)?;
    }
    if let Some(after) = after {
        writeln!(text, "after    {}", after.summary)?;
    }
    for FieldChange { field, before, after } in changes {
        writeln!(text, "         {field}: {before} -> {after}")?;
    }
    for disagreement in disagreements {
        writeln!(text, "warning: the explanation contradicts the program: {disagreement}")?;
    }
    Ok(())
}

fn origin_text(TraceOrigin { object, origin, negotiated }: &TraceOrigin) -> String {
    let negotiated = if *negotiated { ", selectors negotiated by its SAs" } else { "" };
    format!("{object}: {origin}{negotiated}")
}

fn verdict_text(TraceVerdict { action, reason, egress, .. }: &TraceVerdict) -> String {
    let action = match action {
        TraceAction::Forward => "forward",
        TraceAction::Pass => "pass to the kernel",
        TraceAction::Drop => "drop",
    };
    match (reason, egress) {
        (Some(reason), _) => format!("{action}: {reason}"),
        (None, Some(egress)) => format!("{action} to {} on {}", egress.connection, egress.interface),
        (None, None) => action.to_owned(),
    }
}

/// Verdicts of a capture's packets.
pub fn capture(CaptureTrace { packets, truncated, verdicts, untraced }: &CaptureTrace) -> String {
    let mut rows = table(&["PACKETS", "VERDICT", "FIRST", "EXAMPLE"]);
    for VerdictCount { packets, first, example, .. } in verdicts {
        let verdict = verdict_text(&example.verdict);
        rows.add_row([packets.to_string(), verdict, first.to_string(), example.packet.summary.clone()]);
    }
    let truncated = (*truncated > 0)
        .then(|| format!("{truncated} packets are not complete in the capture: zeros replaced the missing bytes\n"));
    let untraced = untraced.iter().map(|UntracedCount { error, packets, first }| {
        format!("{packets} packets not traced, the first is number {first}: {error}\n")
    });
    let disagreements = verdicts.iter().flat_map(|verdict| &verdict.example.disagreements);
    let disagreements =
        disagreements.map(|found| format!("warning: the explanation contradicts the program: {found}\n"));
    let notes: Vec<String> = truncated.into_iter().chain(untraced).chain(disagreements).collect();
    format!("{packets} packets\n\n{rows}\n{}", notes.concat())
}
