//! Runs cases of which some cannot run everywhere: those are ignored, and their lines say what they need.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A case: what is lacking here to run it, its name, itself.
pub type Case = (Option<String>, &'static str, fn());

pub fn run(cases: impl Iterator<Item = Case>) -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = |(lacking, name, run): Case| {
        let body = move || {
            run();
            Ok::<(), Failed>(())
        };
        let trial = Trial::test(name, body);
        match lacking {
            // `--ignored` runs it all the same.
            Some(why) => trial.with_kind(why).with_ignored_flag(true),
            None => trial,
        }
    };
    libtest_mimic::run(&arguments, cases.map(trial).collect()).exit_code()
}
