//! The rungs, and what their times say of the stages.

use clap::ValueEnum;

use crate::{
    forward::{cases::Program, results::median},
    rungs::Rung,
};

impl Rung {
    /// In the order in which they are measured and shown.
    pub const ALL: [Self; 10] = [
        Self::Drop,
        Self::Bare,
        Self::Parse,
        Self::Addresses,
        Self::ToHub,
        Self::Selector,
        Self::Route,
        Self::NextHop,
        Self::Rewrite,
        Self::Redirect,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Bare => "bare",
            Self::Parse => "parse",
            Self::Addresses => "addresses",
            Self::ToHub => "to_hub",
            Self::Selector => "selector",
            Self::Route => "route",
            Self::NextHop => "nexthop",
            Self::Rewrite => "rewrite",
            Self::Redirect => "redirect",
        }
    }

    /// The kernel program that goes so far with this program's look-up.
    pub fn entry(self, program: Program) -> String {
        match (self, program) {
            (Self::Drop | Self::Bare, _) => self.name().to_owned(),
            (_, Program::HubLpm) => format!("lpm_{}", self.name()),
            _ => format!("hub_{}", self.name()),
        }
    }

    /// The rung that has all of it but its last stage.
    pub fn before(self) -> Option<Self> {
        match self {
            Self::Drop => None,
            Self::Bare | Self::Parse => Some(Self::Drop),
            Self::Addresses => Some(Self::Parse),
            Self::ToHub => Some(Self::Addresses),
            Self::Selector => Some(Self::ToHub),
            Self::Route => Some(Self::Selector),
            Self::NextHop => Some(Self::Route),
            Self::Rewrite => Some(Self::NextHop),
            Self::Redirect => Some(Self::Rewrite),
        }
    }

    /// Whether its packets are counted, as come in and as sent out.
    pub fn counts(self) -> bool {
        self == Self::Redirect
    }
}

/// Times of all rungs of one program, round by round.
#[derive(Default)]
pub struct Times(Vec<[f64; Rung::ALL.len()]>);

impl Times {
    /// In the order of [`Rung::ALL`].
    pub fn add(&mut self, round: [f64; Rung::ALL.len()]) {
        self.0.push(round);
    }

    pub fn of(&self, rung: Rung) -> Vec<f64> {
        self.0.iter().map(|round| round[rung as usize]).collect()
    }

    /// What the last stage of a rung adds: the median of the differences within each round, because the speed of the
    /// machine changes from one to the next. `None` of nothing, and for the lowest rung.
    pub fn stage(&self, rung: Rung) -> Option<f64> {
        let before = rung.before()?;
        median(&self.0.iter().map(|round| round[rung as usize] - round[before as usize]).collect::<Vec<_>>())
    }

    /// The same as a part of what all stages add. The floor is none of them.
    pub fn share(&self, rung: Rung) -> Option<f64> {
        let all = |round: &[f64; Rung::ALL.len()]| round[Rung::Redirect as usize] - round[Rung::Drop as usize];
        let all = median(&self.0.iter().map(all).collect::<Vec<_>>())?;
        (rung != Rung::Bare && all > 0.0).then_some(self.stage(rung)? / all)
    }
}

/// The hub's ways to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hub {
    /// Compiled
    #[value(name = "hub")]
    Compiled,
    /// LPM tries
    #[value(name = "hub-lpm")]
    Lpm,
}

impl Hub {
    pub fn program(self) -> Program {
        match self {
            Self::Compiled => Program::Hub,
            Self::Lpm => Program::HubLpm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_stands_on_the_one_before() {
        for (number, rung) in Rung::ALL.into_iter().enumerate() {
            assert_eq!(rung as usize, number);
            assert!(rung.before().is_none_or(|before| before < rung && before != Rung::Bare), "{rung:?}");
        }
        let (mut rung, mut height) = (Rung::Redirect, 0);
        while let Some(before) = rung.before() {
            (rung, height) = (before, height + 1);
        }
        assert_eq!((rung, height), (Rung::Drop, 8));
        assert_eq!(Rung::NextHop.entry(Program::HubLpm), "lpm_nexthop");
        assert_eq!(Rung::Bare.entry(Program::HubLpm), "bare");
    }

    #[test]
    fn a_stage_is_what_it_adds_within_a_round() {
        let round = |start: f64| std::array::from_fn(|rung| start + f64::from(u8::try_from(rung).unwrap()));
        let mut times = Times::default();
        assert_eq!((times.stage(Rung::Parse), times.share(Rung::Parse)), (None, None));
        // The machine gets slower and faster.
        for start in [10.0, 400.0, 30.0] {
            times.add(round(start));
        }
        assert_eq!(times.of(Rung::Bare), [11.0, 401.0, 31.0]);
        assert_eq!(times.stage(Rung::Drop), None);
        assert_eq!((times.stage(Rung::Bare), times.stage(Rung::Parse)), (Some(1.0), Some(2.0)));
        assert_eq!((times.share(Rung::Bare), times.share(Rung::Parse)), (None, Some(2.0 / 9.0)));
        let stages = Rung::ALL.into_iter().filter_map(|rung| times.share(rung));
        assert!((stages.sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
