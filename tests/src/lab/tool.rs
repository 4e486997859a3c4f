//! Programs that run in a world, to their end or beside something else, and end with it.

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::{agent, cleanup};

/// Runs a command to its end, as [`Command::output`] does; but an interrupt of this process ends it too. What it writes
/// to stderr must fit a pipe (64 KiB).
///
/// # Errors
/// When it cannot be run or read. That it fails is not an error.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    let program = command.get_program().display().to_string();
    let mut made = cleanup::made();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}"))?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let child = Arc::new(Mutex::new(child));
    made.processes.push(Arc::clone(&child));
    drop(made);

    // Without the lock on the child, which whoever ends it must get.
    let mut read = || -> std::io::Result<[Vec<u8>; 2]> {
        let mut said = [Vec::new(), Vec::new()];
        stdout.as_mut().map(|pipe| pipe.read_to_end(&mut said[0])).transpose()?;
        stderr.as_mut().map(|pipe| pipe.read_to_end(&mut said[1])).transpose()?;
        Ok(said)
    };
    let said = read();
    if said.is_err() {
        agent::end(&child, Duration::ZERO);
    }
    // Its pipes are closed, so it has ended or is about to.
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    cleanup::made().processes.retain(|process| !Arc::ptr_eq(process, &child));
    let [stdout, stderr] = said.with_context(|| format!("reading what {program} says"))?;
    Ok(Output { status: status.with_context(|| format!("waiting for {program}"))?, stdout, stderr })
}

/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(2);

/// A program that runs beside something else, such as a server. Dropping it ends it, and so does an interrupt.
#[derive(Debug)]
pub struct Background(Arc<Mutex<Child>>);

impl Background {
    /// Starts a command that reads nothing, and whose output nobody reads.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let program = command.get_program().display().to_string();
        let mut made = cleanup::made();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("running {program}"))?;
        let child = Arc::new(Mutex::new(child));
        made.processes.push(Arc::clone(&child));
        Ok(Self(child))
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(self) -> anyhow::Result<()> {
        let ended = agent::end(&self.0, Duration::ZERO);
        anyhow::ensure!(ended.is_none(), "it had ended by itself");
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Whether it has not ended by itself.
    pub fn runs(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        agent::end(&self.0, GRACE);
        cleanup::made().processes.retain(|process| !Arc::ptr_eq(process, &self.0));
    }
}
