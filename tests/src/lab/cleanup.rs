//! Tracks resources that this process must not leave behind when it is interrupted.
//!
//! `Drop` covers returns and panics; a signal ends a process without either. So each resource is also recorded here,
//! and [`clean_up_on_interrupt`] installs a handler that removes everything recorded.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::{agent, namespace};

/// Exit code after an interrupt: 128 + SIGINT, as in shells.
const INTERRUPTED: i32 = 130;

/// How long an interrupted agent may take to detach its programs before it is killed.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Made {
    pub actions: Vec<(u64, Box<dyn FnOnce() + Send>)>,
    pub namespaces: Vec<String>,
    pub directories: Vec<PathBuf>,
    pub processes: Vec<Arc<Mutex<Child>>>,
}

static MADE: Mutex<Made> =
    Mutex::new(Made { actions: Vec::new(), namespaces: Vec::new(), directories: Vec::new(), processes: Vec::new() });

/// Resources are created and recorded under this lock. So an interrupt never sees a half-made resource, and never
/// removes another process's.
pub(super) fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

static PIPE: AtomicI32 = AtomicI32::new(-1);
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Never returns once this process has been interrupted: [`clean_up_on_interrupt`]'s thread is about to end it. Call it
/// before reporting an error that an interrupt may have caused: Ctrl-C reaches children too, and their end looks like a
/// failure.
pub fn park_if_interrupted() {
    while SIGNALLED.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

extern "C" fn note_signal(_: libc::c_int) {
    SIGNALLED.store(true, Ordering::Relaxed);
    let pipe: RawFd = PIPE.load(Ordering::Relaxed);
    // SAFETY: write is async-signal-safe; the descriptor was stored before the handler was installed and is never
    // closed; the buffer is one readable byte. A full pipe loses nothing: one byte is enough to end the process.
    unsafe { libc::write(pipe, [1_u8].as_ptr().cast(), 1) };
}

/// An action at an interrupt, before all resources are removed. Dropping it cancels the action.
#[derive(Debug)]
pub struct AtInterrupt(u64);

impl AtInterrupt {
    /// For resources that end with no process and no namespace. `action` must not create or remove lab resources.
    #[must_use]
    pub fn run(action: impl FnOnce() + Send + 'static) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        made().actions.push((number, Box::new(action)));
        Self(number)
    }
}

impl Drop for AtInterrupt {
    fn drop(&mut self) {
        made().actions.retain(|(number, _)| *number != self.0);
    }
}

/// Makes SIGINT, SIGTERM and SIGHUP stop the agents, delete this process's namespaces and directories, and exit with
/// code 130. Calling it again is a no-op.
///
/// # Errors
/// When the pipe or the handler cannot be made.
pub fn clean_up_on_interrupt() -> anyhow::Result<()> {
    static INSTALLED: Once = Once::new();
    let mut result = Ok(());
    INSTALLED.call_once(|| result = install());
    result
}

fn install() -> anyhow::Result<()> {
    let (reader, writer) = std::io::pipe().context("making the pipe that the signal handler writes to")?;
    PIPE.store(OwnedFd::from(writer).into_raw_fd(), Ordering::Relaxed);
    std::thread::Builder::new()
        .name("lab-interrupt".into())
        .spawn(move || wait_then_clean_up(File::from(OwnedFd::from(reader))))
        .context("starting the thread that waits for an interrupt")?;
    let action = SigAction::new(SigHandler::Handler(note_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler calls nothing but write(2), which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("installing a handler for {signal}"))?;
    }
    Ok(())
}

fn wait_then_clean_up(mut pipe: File) {
    if pipe.read_exact(&mut [0_u8]).is_err() {
        return;
    }
    // Held until exit, so that nothing more can be created.
    let mut made = made();
    for (_, action) in made.actions.drain(..) {
        action();
    }
    for process in made.processes.drain(..) {
        agent::end(&process, GRACE);
    }
    for name in made.namespaces.drain(..) {
        if let Err(error) = namespace::delete(&name) {
            eprintln!("{error:#}");
        }
    }
    for directory in made.directories.drain(..) {
        // A failure here cannot be handled.
        drop(std::fs::remove_dir_all(directory));
    }
    // On a line of its own, after ^C or a spinner. eprintln would panic without a terminal, and the process would live
    // on.
    drop(writeln!(std::io::stderr(), "\ninterrupted: all that was made is taken down again"));
    std::process::exit(INTERRUPTED);
}
