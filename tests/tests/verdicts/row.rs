//! A row of a table: a packet with its expected verdict.

use std::fmt::Write as _;

use anyhow::Context as _;
use hub_tests::{
    model::{Account, Count, Mark, Prediction, Verdict, World},
    packet::{hex, verify_checksums, verify_ip_checksums},
};
use hub_userspace::datapath::{Action, Hook, Outcome};

use crate::{
    program::{Arrival, Books, Program, difference, enter},
    record,
};

/// See [`row`].
#[must_use]
pub struct Row {
    pub name: String,
    pub arrival: Arrival,
}

/// A row with its expectation.
pub struct Expected {
    pub row: Row,
    pub prediction: Prediction,
    /// Its checksums are wrong on purpose.
    broken: bool,
    /// The other hook has another verdict.
    pub only_at: Option<Hook>,
}

/// A frame that arrives on an interface. `name` describes the row's purpose.
pub fn row(name: impl Into<String>, interface: u32, frame: Vec<u8>) -> Row {
    Row { name: name.into(), arrival: Arrival::new(interface, frame) }
}

/// An account by name: a connection's, `vpc`, or `nobody`.
fn account(name: &str) -> Account {
    match name {
        "nobody" => Account::Unattributed,
        "vpc" => Account::Vpc,
        name => Account::Connection(name.into()),
    }
}

impl Row {
    /// Expects forwarding from one connection to another as this frame; `bytes` is the size of its IP packet.
    pub fn forwarded(self, from: &str, to: (&str, u32), frame: Vec<u8>, bytes: u64) -> Expected {
        let (to, interface) = to;
        let counts = vec![(account(from), Count::Received(bytes)), (account(to), Count::Sent(bytes))];
        self.expected(Verdict::Forward { interface, frame }, counts)
    }

    /// Expects a pass to the kernel, counted for this account. If the packet still has to leave, [`Expected::toward`]
    /// sets its next hop.
    pub fn passed(self, reason: &'static str, to: &str) -> Expected {
        let mark = match reason {
            "not_attached" => Some(Mark::Cleared),
            "no_route" => Some(if to == "vpc" { Mark::Cleared } else { Mark::NoRoute }),
            "to_hub" | "multicast" | "link_local" | "not_ip" | "other_host" | "other_vlan" => {
                Some(if to == "vpc" { Mark::Cleared } else { Mark::Local })
            }
            _ => None,
        };
        let mut expected = self.expected(Verdict::Pass(reason), vec![(account(to), Count::Reason(reason))]);
        expected.prediction.mark = mark;
        expected
    }

    /// Expects a drop, counted for this account.
    pub fn dropped(self, reason: &'static str, to: &str) -> Expected {
        self.expected(Verdict::Drop(reason), vec![(account(to), Count::Reason(reason))])
    }

    /// Sets the kernel's protocol of raw IP, an `EtherType`, which XDP does not see.
    pub fn taken_for(mut self, ether_type: u16) -> Self {
        self.arrival.taken_for = Some(ether_type);
        self
    }

    /// Sets its `skb->mark` on arrival.
    pub fn with_mark(mut self, mark: u32) -> Self {
        self.arrival.mark = mark;
        self
    }

    fn expected(self, verdict: Verdict, counts: Vec<(Account, Count)>) -> Expected {
        let prediction = Prediction { verdict, counts, mark: None, changed: None };
        Expected { row: self, prediction, broken: false, only_at: None }
    }
}

impl Expected {
    /// The connection's selectors allowed it first: this many bytes of IP packet count as received.
    pub fn admitted(mut self, bytes: u64) -> Self {
        let account = self.prediction.counts[0].0.clone();
        self.prediction.counts.insert(0, (account, Count::Received(bytes)));
        self
    }

    /// The kernel must send it by, or answer for, this next hop: a connection, or `vpc`.
    pub fn toward(mut self, next_hop: &str) -> Self {
        self.prediction.mark = Some(Mark::NextHop(account(next_hop)));
        self
    }

    /// TC leaves this frame: the source is translated, or the MSS of a passed SYN lowered.
    pub fn changed(mut self, frame: Vec<u8>) -> Self {
        self.prediction.changed = Some(frame);
        self
    }

    /// Expects this at one hook only.
    pub fn only_at(mut self, hook: Hook) -> Self {
        self.only_at = Some(hook);
        self
    }

    /// Expects the same wrong checksum in the sent frame as on arrival.
    pub fn broken(mut self) -> Self {
        self.broken = true;
        self
    }
}

/// Checks the reference model against every row, and that no row contradicts itself.
///
/// # Errors
/// All rows that fail, with the frames.
pub fn agree(world: &World, rows: &[Expected]) -> anyhow::Result<()> {
    let mut report = String::new();
    for expected in rows {
        let Row { name, arrival } = &expected.row;
        let raw = world.interfaces.iter().any(|other| other.index == arrival.interface && !other.ethernet);
        let xdp = arrival.taken_for.is_none().then_some(Hook::Xdp);
        for hook in xdp.into_iter().chain([Hook::Tc]).filter(|hook| expected.is_at(*hook)) {
            let model = world.predict(arrival.hook(hook, raw), arrival.interface, &arrival.frame);
            for mismatch in expected.mismatches(world, &model) {
                writeln!(report, "{name:?}, {hook:?}: {mismatch}\nin:\n{}", hex(&arrival.frame))?;
            }
        }
    }
    anyhow::ensure!(report.is_empty(), "{report}");
    Ok(())
}

/// Checks the program against every row.
///
/// # Errors
/// All rows that fail, with the frames.
pub fn check(program: &mut Program, world: &World, rows: &[Expected]) -> anyhow::Result<()> {
    program.install(world)?;
    let mut report = String::new();
    for (number, expected) in rows.iter().enumerate() {
        if number % 500 == 0 {
            program.reset_record_limits()?;
        }
        let Row { arrival, .. } = &expected.row;
        if !expected.is_at(program.entry.0) || !program.gets(world, arrival) {
            continue;
        }
        let part = program.part(expected.prediction.clone(), world, arrival);
        let mark = program.marked(arrival, part.mark.as_ref()).context(expected.row.name.clone())?;
        let before = program.books()?;
        program.records()?;
        let outcome = program.take(arrival)?;
        let books = difference(&before, &program.books()?);
        let records = program.records()?;
        let wrong = record::differences(program, &part, arrival, &outcome, &records);
        for difference in differences(&part, arrival, mark, &outcome, &books).into_iter().chain(wrong) {
            writeln!(report, "{:?}: {difference}", expected.row.name)?;
            writeln!(report, "in:\n{}out:\n{}", hex(&arrival.frame), hex(&outcome.frame))?;
        }
    }
    anyhow::ensure!(report.is_empty(), "{report}");
    Ok(())
}

impl Expected {
    /// Whether it applies to this hook.
    fn is_at(&self, hook: Hook) -> bool {
        self.only_at.is_none_or(|only| only == hook)
    }

    /// Contradictions within the row, or with the model.
    fn mismatches(&self, world: &World, model: &Prediction) -> Vec<String> {
        let mut mismatches = Vec::new();
        if let Verdict::Forward { interface, frame } = &self.prediction.verdict {
            let ethernet = world.interfaces.iter().any(|other| other.index == *interface && other.ethernet);
            let checksums = if ethernet { verify_checksums(frame) } else { verify_ip_checksums(frame) };
            match checksums {
                Err(error) if !self.broken => mismatches.push(format!("the row itself is wrong: {error}")),
                Ok(()) if self.broken => mismatches.push("the row itself has right checksums".into()),
                _ => {}
            }
        }
        if *model != self.prediction {
            mismatches.push(format!("the model says {model:?}, the row {:?}", self.prediction));
        }
        mismatches
    }
}

/// Differences between the program and its part of a verdict; `mark` is the expected mark of a packet it passes.
fn differences(part: &Prediction, arrival: &Arrival, mark: u32, outcome: &Outcome, books: &Books) -> Vec<String> {
    let mut differences = Vec::new();
    let Outcome { action, frame, mark: left } = outcome;
    let (expected_action, expected_frame) = match &part.verdict {
        Verdict::Forward { frame, .. } => (Action::Redirect, frame),
        Verdict::Pass(_) => (Action::Pass, part.changed.as_ref().unwrap_or(&arrival.frame)),
        // TC may have translated what it then drops.
        Verdict::Drop(_) => (Action::Drop, frame),
    };
    if *action != expected_action {
        differences.push(format!("action {action:?}, not {expected_action:?}; counted {books:?}"));
    }
    if frame != expected_frame {
        differences.push(format!("another frame, not:\n{}", hex(expected_frame)));
    }
    if expected_action == Action::Pass && *left != mark {
        differences.push(format!("mark {left:#010x}, not {mark:#010x}"));
    }
    let mut expected_books = Books::new();
    enter(&mut expected_books, part);
    if *books != expected_books {
        differences.push(format!("counted {books:?}, not {expected_books:?}"));
    }
    differences
}
