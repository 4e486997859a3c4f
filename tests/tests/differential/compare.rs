//! One world: the program's verdict on each packet against the model's, and the counters of both.

use std::{collections::BTreeMap, sync::Arc};

use hub_tests::{
    model::{Prediction, Verdict, World},
    packet::hex,
};
use hub_userspace::{
    config::Config,
    datapath::{Action, Hook, Outcome, Tracer},
};
use rand::rngs::SmallRng;

use crate::{
    coverage::Coverage,
    packets,
    program::{
        Arrival, Books, Program, difference, enter, inputs,
        traced::{differences, trace},
    },
    show,
};

/// One packet of so many is traced, too.
const TRACED: u64 = 25;

pub struct Comparison<'a> {
    pub world: &'a World,
    pub rng: &'a mut SmallRng,
    pub packets: u64,
}

impl Comparison<'_> {
    /// Runs each packet through all programs.
    pub fn run(
        self,
        programs: &mut [Program],
        tracers: &mut BTreeMap<usize, Tracer>,
        coverage: &mut Coverage,
    ) -> anyhow::Result<()> {
        let Self { world, rng, packets } = self;
        let mut before = Vec::new();
        for program in &mut *programs {
            program.install(world)?;
            before.push(program.books()?);
        }
        let config = Arc::new(inputs(world).0);
        let mut expected = vec![Books::new(); programs.len()];
        let mut sent = Vec::new();
        for number in 0..packets {
            let arrival = packets::draw(rng, world);
            for (index, (program, expected)) in programs.iter_mut().zip(&mut expected).enumerate() {
                if !program.gets(world, &arrival) {
                    continue;
                }
                if number % TRACED == 0
                    && let Some(tracer) = tracers.get_mut(&index)
                {
                    check_trace(program, tracer, world, &config, &arrival)?;
                }
                let part = part(program, world, &arrival);
                let mark = program.marked(&arrival, part.mark.as_ref())?;
                let outcome = program.take(&arrival)?;
                if !agree(world, &arrival, &part, mark, &outcome) {
                    let difference = disagreement(world, &arrival, &part, mark, &outcome, None);
                    anyhow::bail!("{:?}: {difference}", program.entry);
                }
                enter(expected, &part);
            }
            coverage.note(world, &arrival);
            sent.push(arrival);
        }
        for ((program, before), expected) in programs.iter_mut().zip(before).zip(expected) {
            if difference(&before, &program.books()?) != expected {
                find_miscounted(program, world, &sent)?;
            }
        }
        Ok(())
    }
}

/// Traces a packet, too.
fn check_trace(
    program: &mut Program,
    tracer: &mut Tracer,
    world: &World,
    config: &Arc<Config>,
    arrival: &Arrival,
) -> anyhow::Result<()> {
    let is_passed = || matches!(part(program, world, arrival).verdict, Verdict::Pass(_));
    let hook = if program.entry.0 == Hook::Tc || is_passed() { Hook::Tc } else { Hook::Xdp };
    if hook == Hook::Tc && !program.tc_gets(arrival) {
        return Ok(());
    }
    let prediction = predict(world, hook, arrival);
    let trace = trace(tracer, program, world, config, arrival)?;
    let found = differences(program, world, arrival, &prediction, &trace)?;
    anyhow::ensure!(
        found.is_empty(),
        "{:?}, traced: {}\n{trace:#?}\nin:\n{}world\n{}",
        program.entry,
        found.join("\n"),
        hex(&arrival.frame),
        show::world(world)
    );
    Ok(())
}

/// The program's expected part at its hook.
fn part(program: &Program, world: &World, arrival: &Arrival) -> Prediction {
    program.part(predict(world, program.entry.0, arrival), world, arrival)
}

/// The model's verdict on a frame at a hook.
pub fn predict(world: &World, hook: Hook, arrival: &Arrival) -> Prediction {
    world.predict(arrival.hook(hook, is_raw(world, arrival)), arrival.interface, &arrival.frame)
}

/// Whether the frame has no link header.
pub fn is_raw(world: &World, arrival: &Arrival) -> bool {
    world.interfaces.iter().any(|link| link.index == arrival.interface && !link.ethernet)
}

/// `mark` is the expected mark of a passed packet.
fn agree(world: &World, arrival: &Arrival, prediction: &Prediction, mark: u32, outcome: &Outcome) -> bool {
    match &prediction.verdict {
        Verdict::Pass(_) => {
            let is_as_left = outcome.frame == *prediction.changed.as_ref().unwrap_or(&arrival.frame);
            outcome.action == Action::Pass && is_as_left && outcome.mark == mark
        }
        // TC may have translated what it then drops.
        Verdict::Drop(_) => outcome.action == Action::Drop,
        Verdict::Forward { interface, frame } => {
            // A test run does not report the egress interface, but each interface has its own link address.
            let egress = world.interfaces.iter().find(|other| other.index == *interface);
            let egress = egress.expect("the model forwards to an interface of the world");
            let leaves_there = !egress.ethernet || outcome.frame.get(6..12) == Some(&egress.mac[..]);
            outcome.action == Action::Redirect && leaves_there && outcome.frame == *frame
        }
    }
}

/// The sums of the counters differ: finds the packet.
fn find_miscounted(program: &mut Program, world: &World, sent: &[Arrival]) -> anyhow::Result<()> {
    for arrival in sent {
        if !program.gets(world, arrival) {
            continue;
        }
        let before = program.books()?;
        let outcome = program.take(arrival)?;
        let counted = difference(&before, &program.books()?);
        let part = part(program, world, arrival);
        let mut expected = Books::new();
        enter(&mut expected, &part);
        if counted != expected {
            let mark = program.marked(arrival, part.mark.as_ref())?;
            let difference = disagreement(world, arrival, &part, mark, &outcome, Some(&counted));
            anyhow::bail!("{:?}: {difference}", program.entry);
        }
    }
    anyhow::bail!("the counters differ in sum, and for no packet alone: world\n{}", show::world(world));
}

fn disagreement(
    world: &World,
    arrival: &Arrival,
    prediction: &Prediction,
    mark: u32,
    outcome: &Outcome,
    counted: Option<&Books>,
) -> String {
    let model = match &prediction.verdict {
        Verdict::Forward { interface, frame } => format!("forward to {interface}:\n{}", hex(frame)),
        Verdict::Pass(_) => format!("{:?} with mark {mark:#010x}, {:?}\n", prediction.verdict, prediction.mark),
        Verdict::Drop(_) => format!("{:?}\n", prediction.verdict),
    };
    let counted = counted.map(|books| format!("counted {books:?}\n")).unwrap_or_default();
    let Arrival { interface, frame, taken_for, mark: before } = arrival;
    let taken_for = taken_for.map(|number| format!(" taken for {number:#06x}")).unwrap_or_default();
    let rules = world.rules(arrival.hook(Hook::Tc, is_raw(world, arrival)), *interface, frame);
    format!(
        "the program and the model disagree\n{}packet on interface {interface} with mark {before:#010x}{taken_for}:\n\
         {}model: {model}{:?} {rules:?}\nprogram: {:?} with mark {:#010x}:\n{}{counted}",
        show::world(world),
        hex(frame),
        prediction.counts,
        outcome.action,
        outcome.mark,
        hex(&outcome.frame),
    )
}
