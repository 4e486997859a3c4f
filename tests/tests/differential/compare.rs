//! One world: what the program does to each packet, what the model says, and the books of both.

use hub_tests::{
    model::{Judgement, Verdict, World},
    packet::hex,
};
use hub_userspace::dataplane::{Action, Outcome};
use rand::rngs::SmallRng;

use crate::{
    coverage::Coverage,
    packets,
    program::{Books, Program, difference, enter},
    show,
};

pub struct Comparison<'a> {
    pub world: &'a World,
    pub rng: &'a mut SmallRng,
    pub packets: u64,
}

impl Comparison<'_> {
    /// Each packet goes through all programs.
    pub fn run(self, programs: &mut [Program], coverage: &mut Coverage) -> anyhow::Result<()> {
        let Self { world, rng, packets } = self;
        let mut before = Vec::new();
        for program in &mut *programs {
            program.install(world)?;
            before.push(program.books()?);
        }
        let mut expected = vec![Books::new(); programs.len()];
        let mut sent = Vec::new();
        for _ in 0..packets {
            let (interface, frame) = packets::draw(rng, world);
            let judgement = world.judge(interface, &frame);
            for (program, expected) in programs.iter_mut().zip(&mut expected) {
                if !program.gets(world, interface, &frame) {
                    continue;
                }
                let part = program.part(judgement.clone(), world, interface, &frame);
                let outcome = program.run(interface, &frame)?;
                if !agree(world, &frame, &part, &outcome) {
                    let difference = disagreement(world, interface, &frame, &part, &outcome, None);
                    anyhow::bail!("{:?}: {difference}", program.entry);
                }
                enter(expected, &part);
            }
            coverage.note(world, interface, &frame, &judgement);
            coverage.note_handed_over(&judgement.by_xdp(world));
            sent.push((interface, frame));
        }
        for ((program, before), expected) in programs.iter_mut().zip(before).zip(expected) {
            if difference(&before, &program.books()?) != expected {
                find_miscounted(program, world, &sent)?;
            }
        }
        Ok(())
    }
}

fn agree(world: &World, frame: &[u8], judgement: &Judgement, outcome: &Outcome) -> bool {
    match &judgement.verdict {
        Verdict::Pass(_) => outcome.action == Action::Pass && outcome.frame == frame,
        Verdict::Drop(_) => outcome.action == Action::Drop && outcome.frame == frame,
        Verdict::Forward { interface, frame } => {
            // A test run does not tell the egress interface: its link address does, as each has its own.
            let egress = world.interfaces.iter().find(|other| other.index == *interface);
            let egress = egress.expect("the model forwards to an interface of the world");
            let leaves_there = !egress.ethernet || outcome.frame.get(6..12) == Some(&egress.mac[..]);
            outcome.action == Action::Redirect && leaves_there && outcome.frame == *frame
        }
    }
}

/// The books differ in sum: finds the packet.
fn find_miscounted(program: &mut Program, world: &World, sent: &[(u32, Vec<u8>)]) -> anyhow::Result<()> {
    for (interface, frame) in sent {
        if !program.gets(world, *interface, frame) {
            continue;
        }
        let before = program.books()?;
        let outcome = program.run(*interface, frame)?;
        let counted = difference(&before, &program.books()?);
        let judgement = program.part(world.judge(*interface, frame), world, *interface, frame);
        let mut expected = Books::new();
        enter(&mut expected, &judgement);
        if counted != expected {
            anyhow::bail!("{}", disagreement(world, *interface, frame, &judgement, &outcome, Some(&counted)));
        }
    }
    anyhow::bail!("the counters differ in sum, and for no packet alone: world\n{}", show::world(world));
}

fn disagreement(
    world: &World,
    interface: u32,
    frame: &[u8],
    judgement: &Judgement,
    outcome: &Outcome,
    counted: Option<&Books>,
) -> String {
    let model = match &judgement.verdict {
        Verdict::Forward { interface, frame } => format!("forward to {interface}:\n{}", hex(frame)),
        other => format!("{other:?}\n"),
    };
    let counted = counted.map(|books| format!("counted {books:?}\n")).unwrap_or_default();
    format!(
        "the program and the model disagree\n{}packet on interface {interface}:\n{}model: {model}{:?}\nprogram: {:?}:\n{}{counted}",
        show::world(world),
        hex(frame),
        judgement.counts,
        outcome.action,
        hex(&outcome.frame),
    )
}
