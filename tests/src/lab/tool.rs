//! Programs in a world, run to their end or in the background.

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::{agent, cleanup};

/// Runs a command to its end, like [`Command::output`]; but an interrupt of this process ends it too. Its stderr must
/// fit a pipe (64 KiB).
///
/// # Errors
/// When it cannot be run or read. Its failure is not an error.
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

    // Without the lock on the child, which the interrupt handler needs to end it.
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

/// Time limit for a program to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// A background program, such as a server. Dropping it ends it, and so does an interrupt.
#[derive(Debug)]
pub struct Background(Arc<Mutex<Child>>);

impl Background {
    /// Starts a command with no input, and discards its output.
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
    /// When it had already exited.
    pub fn kill(self) -> anyhow::Result<()> {
        let ended = agent::end(&self.0, Duration::ZERO);
        anyhow::ensure!(ended.is_none(), "it had ended by itself");
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Whether it is still running.
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
