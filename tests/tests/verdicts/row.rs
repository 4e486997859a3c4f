//! A row of a table: a packet, and what must become of it.

use std::fmt::Write as _;

use hub_tests::{
    model::{Account, Count, Judgement, Verdict, World},
    packet::{hex, verify_checksums, verify_ip_checksums},
};

use hub_userspace::dataplane::{Action, Outcome};

use crate::program::{Books, Program, difference, enter};

/// See [`row`].
#[must_use]
pub struct Row {
    name: String,
    interface: u32,
    frame: Vec<u8>,
}

/// A row with its expectation.
pub struct Expected {
    row: Row,
    judgement: Judgement,
    /// Its checksums are not to be right.
    broken: bool,
}

/// A frame that comes in on an interface. `name` says what the row shows.
pub fn row(name: impl Into<String>, interface: u32, frame: Vec<u8>) -> Row {
    Row { name: name.into(), interface, frame }
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
    /// Goes from one connection to another and leaves as this frame; its IP packet has so many bytes.
    pub fn forwarded(self, from: &str, to: (&str, u32), frame: Vec<u8>, bytes: u64) -> Expected {
        let (to, interface) = to;
        let counts = vec![(account(from), Count::Received(bytes)), (account(to), Count::Sent(bytes))];
        self.expect(Verdict::Forward { interface, frame }, counts)
    }

    /// Goes to the kernel, charged to this account.
    pub fn passed(self, reason: &'static str, to: &str) -> Expected {
        self.expect(Verdict::Pass(reason), vec![(account(to), Count::Reason(reason))])
    }

    /// Goes nowhere, charged to this account.
    pub fn dropped(self, reason: &'static str, to: &str) -> Expected {
        self.expect(Verdict::Drop(reason), vec![(account(to), Count::Reason(reason))])
    }

    fn expect(self, verdict: Verdict, counts: Vec<(Account, Count)>) -> Expected {
        Expected { row: self, judgement: Judgement { verdict, counts }, broken: false }
    }
}

impl Expected {
    /// The connection's selectors have admitted it before: so many bytes of IP packet count as received.
    pub fn admitted(mut self, bytes: u64) -> Self {
        let account = self.judgement.counts[0].0.clone();
        self.judgement.counts.insert(0, (account, Count::Received(bytes)));
        self
    }

    /// What leaves has a wrong checksum, as what came in had.
    pub fn broken(mut self) -> Self {
        self.broken = true;
        self
    }
}

/// Checks every row against the program, and the reference model against every row.
///
/// # Errors
/// All rows that fail, with the frames.
pub fn check(program: &mut Program, world: &World, rows: &[Expected]) -> anyhow::Result<()> {
    program.install(world)?;
    let mut report = String::new();
    for expected in rows {
        let Row { interface, frame, .. } = &expected.row;
        if !program.gets(world, *interface, frame) {
            continue;
        }
        let before = program.books()?;
        let outcome = program.run(*interface, frame)?;
        let books = difference(&before, &program.books()?);
        let part = program.part(expected.judgement.clone(), world, *interface, frame);
        for mismatch in expected.mismatches(world, &part, &outcome, &books) {
            writeln!(report, "{:?}: {mismatch}", expected.row.name)?;
            writeln!(report, "in:\n{}out:\n{}", hex(&expected.row.frame), hex(&outcome.frame))?;
        }
    }
    anyhow::ensure!(report.is_empty(), "{report}");
    Ok(())
}

impl Expected {
    /// `part` is what the program at its hook is to do of the row's judgement.
    fn mismatches(&self, world: &World, part: &Judgement, outcome: &Outcome, books: &Books) -> Vec<String> {
        let mut mismatches = Vec::new();
        let Outcome { action, frame } = outcome;
        let (wanted_action, wanted_frame) = match &part.verdict {
            Verdict::Forward { frame, .. } => (Action::Redirect, frame),
            Verdict::Pass(_) => (Action::Pass, &self.row.frame),
            Verdict::Drop(_) => (Action::Drop, &self.row.frame),
        };
        if *action != wanted_action {
            mismatches.push(format!("action {action:?}, not {wanted_action:?}; counted {books:?}"));
        }
        if frame != wanted_frame {
            mismatches.push(format!("another frame, not:\n{}", hex(wanted_frame)));
        }
        if let Verdict::Forward { interface, frame } = &self.judgement.verdict {
            let ethernet = world.interfaces.iter().any(|other| other.index == *interface && other.ethernet);
            let checksums = if ethernet { verify_checksums(frame) } else { verify_ip_checksums(frame) };
            match checksums {
                Err(error) if !self.broken => mismatches.push(format!("the row itself is wrong: {error}")),
                Ok(()) if self.broken => mismatches.push("the row itself has right checksums".into()),
                _ => {}
            }
        }
        let mut wanted_books = Books::new();
        enter(&mut wanted_books, part);
        if *books != wanted_books {
            mismatches.push(format!("counted {books:?}, not {wanted_books:?}"));
        }
        let model = world.judge(self.row.interface, &self.row.frame);
        if model != self.judgement {
            mismatches.push(format!("the model says {model:?}, the row {:?}", self.judgement));
        }
        mismatches
    }
}
