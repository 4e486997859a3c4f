//! The agent under test: a `vpnhub` process in a place, from start to end.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, bail};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Monitor, Namespace, Scratch, Status, cleanup, namespace};

/// Time limit for an agent to answer. It takes a second, except on busy virtual machines without KVM. The full time
/// passes only on failure.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// `SD_LISTEN_FDS_START`.
const FIRST_DESCRIPTOR: i32 = 3;

/// How to start the agent.
#[derive(Debug, Clone)]
pub struct AgentCommand {
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    has_instances: bool,
    ready_within: Duration,
    /// A descriptor passed as systemd does, and its name.
    descriptor: Option<(String, Arc<OwnedFd>)>,
}

impl AgentCommand {
    /// `binary run …`, which must answer within a minute.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            has_instances: true,
            ready_within: READY_WITHIN,
            descriptor: None,
        }
    }

    /// Adds an argument of `run`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A descriptor from systemd's store (`sd_listen_fds(3)`).
    #[must_use]
    pub fn descriptor(mut self, name: &str, descriptor: &Arc<OwnedFd>) -> Self {
        self.descriptor = Some((name.to_owned(), Arc::clone(descriptor)));
        self
    }

    /// An agent of version 0.1, which has no `--instance` and whose datapath ends with it.
    #[must_use]
    pub fn without_instance(mut self) -> Self {
        self.has_instances = false;
        self
    }

    /// Sets the time limit for its first answer.
    #[must_use]
    pub fn ready_within(mut self, time: Duration) -> Self {
        self.ready_within = time;
        self
    }

    /// Starts it in a place with a copy of a configuration file, and waits until it answers.
    ///
    /// # Errors
    /// When it exits or does not answer in time: with its log.
    pub fn start(&self, place: &Namespace, config: &Path) -> anyhow::Result<Agent> {
        let text = fs::read_to_string(config).with_context(|| format!("reading {}", config.display()))?;
        self.start_with(place, &text)
    }

    /// Like [`start`](Self::start), with the text of a configuration.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(&self, place: &Namespace, config: &str) -> anyhow::Result<Agent> {
        let scratch = Scratch::new()?;
        let path = scratch.file("vpnhub.toml");
        fs::write(&path, config).with_context(|| format!("writing {}", path.display()))?;
        self.start_in(place, scratch)
    }

    /// Like [`start`](Self::start), with the files of an earlier agent: see [`Agent::kill`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(&self, place: &Namespace, scratch: Scratch) -> anyhow::Result<Agent> {
        let agent = self.spawn_in(place, scratch)?;
        agent.wait_until_ready(self.ready_within)?;
        Ok(agent)
    }

    /// Like [`start_in`](Self::start_in), without waiting for an answer.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub fn spawn_in(&self, place: &Namespace, scratch: Scratch) -> anyhow::Result<Agent> {
        let log =
            File::options().create(true).append(true).open(scratch.file("agent.log")).context("opening the log")?;
        let mut command = match &self.descriptor {
            None => place.command(&self.binary),
            Some((name, descriptor)) => handed_over(place, &self.binary, name, descriptor),
        };
        command
            .arg("--socket")
            .arg(scratch.file("vpnhub.sock"))
            .arg("run")
            .arg("--config")
            .arg(scratch.file("vpnhub.toml"))
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("opening the log")?)
            .stderr(log);
        // Version 0.1 has neither.
        if self.has_instances {
            command.arg("--state").arg(scratch.file("state")).args(["--instance", &place.instance()]);
        }
        let mut made = cleanup::made();
        let child = command
            .spawn()
            .with_context(|| format!("starting {}: was it built? (cargo xtask build)", self.binary.display()))?;
        let child = Arc::new(Mutex::new(child));
        made.processes.push(Arc::clone(&child));
        let pins = place.is_current().then(|| place.pins());
        made.directories.extend(pins.clone());
        drop(made);
        Ok(Agent { binary: self.binary.clone(), child, scratch: Some(scratch), ended: false, pins })
    }
}

/// `binary` with this descriptor as number 3.
fn handed_over(place: &Namespace, binary: &Path, name: &str, descriptor: &Arc<OwnedFd>) -> Command {
    // Only the process itself knows its id.
    let mut command = place.command("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(binary);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    let descriptor = Arc::clone(descriptor);
    // SAFETY: dup2 is a bare system call.
    unsafe {
        command.pre_exec(move || match libc::dup2(descriptor.as_raw_fd(), FIRST_DESCRIPTOR) {
            FIRST_DESCRIPTOR => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command
}

/// A running agent. Dropping it kills it and shows its log: a test that succeeds ends with [`stop`](Agent::stop).
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    child: Arc<Mutex<Child>>,
    /// Taken only after the agent has ended.
    scratch: Option<Scratch>,
    ended: bool,
    /// The pins to remove with it; those of a lab's own namespace go with the namespace.
    pins: Option<PathBuf>,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// The socket for its command line.
    pub fn socket(&self) -> PathBuf {
        self.scratch().file("vpnhub.sock")
    }

    /// Its configuration file, which it may rewrite.
    pub fn config(&self) -> PathBuf {
        self.scratch().file("vpnhub.toml")
    }

    /// Its output on stdout and stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch().file("agent.log")).unwrap_or_default()
    }

    /// Runs `vpnhub --socket … ARGS` against it, whether that succeeds or fails.
    ///
    /// # Errors
    /// When the program cannot be run at all.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<Output> {
        Command::new(&self.binary)
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", self.binary.display()))
    }

    /// Runs `vpnhub --socket … --output json ARGS`, which must exit with 0 and print JSON.
    ///
    /// # Errors
    /// When it does not: its stderr.
    pub fn json(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let output = self.cli(&[&["--output", "json"], args].concat())?;
        if !output.status.success() {
            bail!("`vpnhub {}` ended with {}: {}", args.join(" "), output.status, text(&output.stderr));
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`vpnhub {}` printed no JSON: {}", args.join(" "), text(&output.stdout)))
    }

    /// `vpnhub status`.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub fn status(&self) -> anyhow::Result<Status> {
        self.json(&["status"]).map(Status)
    }

    /// `vpnhub monitor`.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn monitor(&self) -> anyhow::Result<Monitor> {
        let mut command = Command::new(&self.binary);
        Monitor::start(command.arg("--socket").arg(self.socket()).args(["--output", "json", "monitor"]))
    }

    /// Polls the status every 20 ms until `accept` returns true.
    ///
    /// # Errors
    /// When `timeout` passes first: with the last status.
    pub fn wait_for_status(
        &self,
        timeout: Duration,
        mut accept: impl FnMut(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.status()?;
            if accept(&status) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the status did not become as expected within {timeout:?}: {:#}", *status);
            }
            thread::sleep(POLL);
        }
    }

    /// # Errors
    /// When it has ended: with its log.
    pub fn must_run(&self) -> anyhow::Result<()> {
        let ended = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?;
        match ended {
            Some(status) => bail!("the agent ended with {status} before it answered; its log:\n{}", self.log()),
            None => Ok(()),
        }
    }

    /// Ends it with SIGTERM. It must exit with 0 within 10 s.
    ///
    /// # Errors
    /// When it does not: with its log. It is killed in any case.
    pub fn stop(self) -> anyhow::Result<()> {
        self.stop_with(Signal::SIGTERM).map(drop)
    }

    /// Like [`stop`](Self::stop), with another signal; returns its files.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_with(self, signal: Signal) -> anyhow::Result<Scratch> {
        self.end_within(signal, Duration::from_secs(10))
    }

    /// Like [`stop`](Self::stop), for an agent that has very many routes to withdraw.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_within(self, time: Duration) -> anyhow::Result<()> {
        self.end_within(Signal::SIGTERM, time).map(drop)
    }

    /// Like [`stop_with`](Self::stop_with), with a time limit.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn end_within(mut self, signal: Signal, time: Duration) -> anyhow::Result<Scratch> {
        let status = end_with(&self.child, signal, time);
        self.ended = true;
        match status {
            Some(status) if status.success() => Ok(self.scratch.take().expect("the files are there until now")),
            Some(status) => bail!("the agent ended with {status} on {signal}; its log:\n{}", self.log()),
            None => bail!("the agent did not end within {time:?} of {signal}; its log:\n{}", self.log()),
        }
    }

    /// Kills it as a crash would. Returns its files, for [`AgentCommand::start_in`].
    ///
    /// # Errors
    /// When it had already exited.
    pub fn kill(mut self) -> anyhow::Result<Scratch> {
        let before = end(&self.child, Duration::ZERO);
        self.ended = true;
        if let Some(status) = before {
            bail!("the agent had ended by itself with {status}; its log:\n{}", self.log());
        }
        Ok(self.scratch.take().expect("the files are there until now"))
    }

    fn scratch(&self) -> &Scratch {
        self.scratch.as_ref().expect("the files are there as long as the agent")
    }

    fn wait_until_ready(&self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.socket().exists() && self.status().is_ok() {
                return Ok(());
            }
            self.must_run()?;
            if Instant::now() > deadline {
                bail!("the agent did not answer within {timeout:?}; its log:\n{}", self.log());
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let unexpected = !self.ended || thread::panicking();
        if !self.ended {
            end(&self.child, Duration::ZERO);
        }
        cleanup::park_if_interrupted();
        if unexpected && self.scratch.is_some() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        let mut made = cleanup::made();
        made.processes.retain(|process| !Arc::ptr_eq(process, &self.child));
        if let Some(pins) = &self.pins {
            if let Err(error) = namespace::remove_pins(pins) {
                eprintln!("{error:#}");
            }
            made.directories.retain(|directory| directory != pins);
        }
    }
}

/// Ends a process: SIGTERM, then SIGKILL after `grace`; SIGKILL at once if `grace` is zero. Returns its exit status,
/// `None` if it was killed.
pub(super) fn end(process: &Mutex<Child>, grace: Duration) -> Option<ExitStatus> {
    end_with(process, Signal::SIGTERM, grace)
}

fn end_with(process: &Mutex<Child>, signal: Signal, grace: Duration) -> Option<ExitStatus> {
    let mut child = process.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    if !grace.is_zero() {
        // It has not been waited for, so its process id cannot have been reused.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            thread::sleep(POLL);
        }
    }
    let killed: io::Result<ExitStatus> = child.kill().and_then(|()| child.wait());
    drop(killed);
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
