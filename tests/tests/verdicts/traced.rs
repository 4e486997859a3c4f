//! The same rows by `vpnhub trace`: the same verdict, connections, bytes and mark, and no count of the live program.

use std::{fmt::Write as _, sync::Arc};

use hub_tests::{
    model::{Prediction, Verdict, World},
    packet::hex,
};
use hub_userspace::{config::model::LookupKind, datapath::Hook};

use crate::{
    program::{
        Program, inputs,
        traced::{differences, trace},
    },
    row::{Expected, Row},
};

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
