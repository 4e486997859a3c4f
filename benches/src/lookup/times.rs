//! The order of the stages, and the cost of each from the measured times.

use clap::ValueEnum;

use crate::{
    forward::{cases::Program, results::median},
    stages::Stage,
};

impl Stage {
    /// In the order of measurement and output.
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

    /// Name of the kernel program that stops after this stage, with this program's look-up.
    pub fn entry(self, program: Program) -> String {
        match (self, program) {
            (Self::Drop | Self::Bare, _) => self.name().to_owned(),
            (_, Program::HubLpm) => format!("lpm_{}", self.name()),
            _ => format!("hub_{}", self.name()),
        }
    }

    /// The stage before.
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

    /// Whether its packets are counted, as received and as sent.
    pub fn counts(self) -> bool {
        self == Self::Redirect
    }
}

/// Times of all stages of one program, by round.
#[derive(Default)]
pub struct Times(Vec<[f64; Stage::ALL.len()]>);

impl Times {
    /// In the order of [`Stage::ALL`].
    pub fn add(&mut self, round: [f64; Stage::ALL.len()]) {
        self.0.push(round);
    }

    pub fn of(&self, stage: Stage) -> Vec<f64> {
        self.0.iter().map(|round| round[stage as usize]).collect()
    }

    /// Cost of a stage: the median of the differences to the stage before within each round, because the speed of the
    /// machine changes between rounds. `None` without rounds, and for the first stage.
    pub fn stage(&self, stage: Stage) -> Option<f64> {
        let before = stage.before()?;
        median(&self.0.iter().map(|round| round[stage as usize] - round[before as usize]).collect::<Vec<_>>())
    }

    /// The cost as a share of the cost of all stages. The lower bound (`bare`) is not one of them.
    pub fn share(&self, stage: Stage) -> Option<f64> {
        let all = |round: &[f64; Stage::ALL.len()]| round[Stage::Redirect as usize] - round[Stage::Drop as usize];
        let all = median(&self.0.iter().map(all).collect::<Vec<_>>())?;
        (stage != Stage::Bare && all > 0.0).then_some(self.stage(stage)? / all)
    }
}

/// The hub's look-ups.
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
    fn stages_form_one_chain_up_to_redirect() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
            assert!(stage.before().is_none_or(|before| before < stage && before != Stage::Bare), "{stage:?}");
        }
        let (mut stage, mut height) = (Stage::Redirect, 0);
        while let Some(before) = stage.before() {
            (stage, height) = (before, height + 1);
        }
        assert_eq!((stage, height), (Stage::Drop, 8));
        assert_eq!(Stage::NextHop.entry(Program::HubLpm), "lpm_nexthop");
        assert_eq!(Stage::Bare.entry(Program::HubLpm), "bare");
    }

    #[test]
    fn stage_time_is_difference_within_round() {
        let round = |start: f64| std::array::from_fn(|stage| start + f64::from(u8::try_from(stage).unwrap()));
        let mut times = Times::default();
        assert_eq!((times.stage(Stage::Parse), times.share(Stage::Parse)), (None, None));
        // The machine gets slower and faster.
        for start in [10.0, 400.0, 30.0] {
            times.add(round(start));
        }
        assert_eq!(times.of(Stage::Bare), [11.0, 401.0, 31.0]);
        assert_eq!(times.stage(Stage::Drop), None);
        assert_eq!((times.stage(Stage::Bare), times.stage(Stage::Parse)), (Some(1.0), Some(2.0)));
        assert_eq!((times.share(Stage::Bare), times.share(Stage::Parse)), (None, Some(2.0 / 9.0)));
        let stages = Stage::ALL.into_iter().filter_map(|stage| times.share(stage));
        assert!((stages.sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
