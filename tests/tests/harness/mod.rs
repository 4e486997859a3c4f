//! Runs cases, some of which cannot run everywhere: those are ignored, and their lines give the missing requirement.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A case: its missing requirement here, its name, its function.
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
            // `--ignored` runs it nevertheless.
            Some(why) => trial.with_kind(why).with_ignored_flag(true),
            None => trial,
        }
    };
    libtest_mimic::run(&arguments, cases.map(trial).collect()).exit_code()
}
