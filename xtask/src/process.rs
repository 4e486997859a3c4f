//! Child processes: progress, logs, time limits, and termination on a signal.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    os::unix::thread::JoinHandleExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio, exit},
    sync::OnceLock,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hub_tests::checkout;
use indicatif::{ProgressBar, ProgressStyle};
use nix::{
    sys::{
        prctl,
        pthread::pthread_kill,
        signal::{SigSet, Signal, kill},
    },
    unistd::Pid,
};

/// Lines of a failed step's output that are shown.
const TAIL: usize = 30;

/// How long children get to end by themselves after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// The workspace's top directory.
pub fn workspace() -> &'static Path {
    static WORKSPACE: OnceLock<PathBuf> = OnceLock::new();
    WORKSPACE.get_or_init(|| {
        checkout::find().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            exit(1)
        })
    })
}

/// The cargo that runs this xtask.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs `command` with xtask's own input and output.
///
/// When xtask gets SIGINT, SIGTERM or SIGHUP meanwhile, all its descendants get it too, and xtask ends
/// once they have, with 128 + the signal.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    Ok(run(command, None)?.expect("no time limit"))
}

/// The same within a time, after which it is ended: `None` then.
pub fn status_within(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    run(command, Some(limit))
}

fn run(command: &mut Command, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    let child = spawn(command)?;
    let forward = Forward::start()?;
    let status = wait(child, limit);
    forward.stop();
    status
}

/// The exit code that passes on how a child ended; as shells do, 128 + its signal.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The host's target triple.
pub fn host_triple() -> Option<String> {
    let said = capture(Command::new("rustc").arg("-vV"))?;
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

/// Standard output of a short command that succeeds; `None` when it cannot be run or fails.
pub fn capture(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Arguments of cargo: all packages but the kernel programs, which are for another target.
pub const HOST_PACKAGES: [&str; 5] = ["--workspace", "--exclude", "hub-ebpf", "--exclude", "benches-ebpf"];

/// A long command whose output goes to a log.
pub struct Step<'a> {
    /// Description, as in "installing ping".
    pub title: &'a str,
    /// The log's name below `target/xtask`, without `.log`.
    pub log: &'a str,
    /// After which it is ended and counts as failed.
    pub limit: Option<Duration>,
    /// Whether failing is an answer too: the end of the log is not shown then.
    pub quiet: bool,
}

impl Step<'_> {
    /// Runs it, showing that time passes; fails when the command does.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let log = log_file(self.log)?;
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Its lines would displace more useful ones from the shown tail.
            .env_remove("RUST_BACKTRACE");

        let started = Instant::now();
        let child = spawn(command)?;
        // Before the progress bar: its thread takes over which signals are held back.
        let forward = Forward::start()?;
        let progress = Progress::start(self.title, Some(&log));
        let ended = wait(child, self.limit);
        forward.stop();
        let status = ended?;
        let succeeded = status.is_some_and(|status| status.success());
        progress.finish(self.title, started.elapsed(), succeeded);
        if succeeded {
            return Ok(());
        }
        if !self.quiet {
            for line in tail(&log)? {
                eprintln!("    {line}");
            }
        }
        match status {
            None => bail!("{} took over {} s", self.title, started.elapsed().as_secs()),
            Some(status) => bail!("{} failed ({status}); complete log: {}", self.title, log.display()),
        }
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| format!("running {}", command.get_program().display()))
}

/// `None` when the limit ended it.
fn wait(mut child: Child, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    let Some(limit) = limit else {
        return Ok(Some(child.wait()?));
    };
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    for pid in descendants() {
        let _ = kill(pid, Signal::SIGKILL);
    }
    child.wait()?;
    Ok(None)
}

/// Directory of the built programs. It is the directory of this program, in any target directory.
pub fn release_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding the xtask program")?;
    Ok(exe.parent().context("the xtask program has no directory")?.to_owned())
}

fn log_file(name: &str) -> Result<PathBuf> {
    let dir = release_dir()?.with_file_name("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir.join(format!("{name}.log")))
}

fn tail(log: &Path) -> io::Result<VecDeque<String>> {
    let mut lines = VecDeque::with_capacity(TAIL + 1);
    for line in BufReader::new(File::open(log)?).split(b'\n') {
        lines.push_back(String::from_utf8_lossy(&line?).into_owned());
        if lines.len() > TAIL {
            lines.pop_front();
        }
    }
    Ok(lines)
}

/// A spinner with the time on a terminal, else a line before and, for a [`Step`], a line after.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Starts the progress of a long step.
    pub fn start(title: &str, log: Option<&Path>) -> Self {
        if !io::stderr().is_terminal() {
            let log = log.map(|log| format!(" (log: {})", log.display()));
            eprintln!("{title}{}", log.unwrap_or_default());
            return Self(None);
        }
        let style = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]").expect("a valid template");
        let bar = ProgressBar::new_spinner().with_style(style).with_message(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    /// Writes to the terminal without the spinner getting in between.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn finish(self, title: &str, elapsed: Duration, succeeded: bool) {
        let said = if succeeded { "done" } else { "no" };
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
        eprintln!("{title}: {said} ({} s)", elapsed.as_secs());
    }
}

/// Passes signals on to all descendants while a child runs.
///
/// A terminal's Ctrl-C reaches the children by itself, but a SIGTERM to xtask alone would leave a cargo or
/// an apt behind. Without a child xtask keeps the signals' default action, and so do verbs with their own.
struct Forward {
    thread: JoinHandle<()>,
    before: SigSet,
}

impl Forward {
    /// Call it after the start of the child: a child inherits blocked signals, and would not terminate.
    fn start() -> Result<Self> {
        // Grandchildren whose parent ended first come to us instead of to PID 1, and are found.
        prctl::set_child_subreaper(true).context("becoming the subreaper of descendants")?;
        let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR2].into_iter().collect();
        let before = SigSet::thread_get_mask().context("reading the signal mask")?;
        signals.thread_block().context("blocking signals")?;
        let thread = thread::spawn(move || match signals.wait() {
            // Signals are taken lowest number first: the end of the child's time (SIGUSR2) does not overtake
            // the SIGINT that ended the child.
            Ok(Signal::SIGUSR2) | Err(_) => {}
            Ok(signal) => end_with(signal),
        });
        Ok(Self { thread, before })
    }

    fn stop(self) {
        let _ = pthread_kill(self.thread.as_pthread_t(), Signal::SIGUSR2);
        // Joined in vain when the thread is ending the process: it does not come back.
        let _ = self.thread.join();
        let _ = self.before.thread_set_mask();
    }
}

fn end_with(signal: Signal) -> ! {
    let started = Instant::now();
    for pid in descendants() {
        let _ = kill(pid, signal);
    }
    while started.elapsed() < GRACE && !descendants().is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    for pid in descendants() {
        let _ = kill(pid, Signal::SIGKILL);
    }
    eprintln!("\nended by {signal}; run it again to continue");
    exit(128 + signal as i32)
}

/// Every living process below this one.
fn descendants() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes: Vec<Process> = entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Process::parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        })
        .collect();
    // Through the dead, too: a process whose other threads are still ending keeps its children.
    let mut below = vec![Pid::this().as_raw()];
    let mut living = Vec::new();
    let mut next = 0;
    while let Some(&parent) = below.get(next) {
        for child in processes.iter().filter(|process| process.parent == parent) {
            below.push(child.pid);
            if child.alive {
                living.push(Pid::from_raw(child.pid));
            }
        }
        next += 1;
    }
    living
}

#[derive(Debug, PartialEq)]
struct Process {
    pid: i32,
    parent: i32,
    alive: bool,
}

impl Process {
    /// From `/proc/PID/stat` (see `man 5 proc_pid_stat`). The name in parentheses may hold anything.
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let alive = !matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        Some(Self { pid, parent, alive })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// For a test that starts a process: ending a step over its time limit ends all processes of this one.
    pub fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn stat_with_any_process_name_yields_parent() {
        for (stat, expected) in [
            ("12 (cargo) S 7 12 12 0", Some((7, true))),
            ("12 (a ) S 3 (b) R 8 12", Some((8, true))),
            ("12 (gone) Z 7 12 12", Some((7, false))),
            ("12", None),
        ] {
            let process = Process::parse(12, stat);
            assert_eq!(process.map(|p| (p.parent, p.alive)), expected, "{stat}");
        }
    }

    #[test]
    fn child_of_signal_forwarder_blocks_no_signal() {
        let _alone = alone();
        let child = spawn(Command::new("cat").arg("/proc/self/status").stdout(Stdio::piped())).unwrap();
        let forward = Forward::start().unwrap();
        let said = child.wait_with_output().unwrap().stdout;
        forward.stop();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("SigBlk:\t0000000000000000"), "{said}");
    }

    #[test]
    fn child_over_time_limit_is_ended() {
        let _alone = alone();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(wait(child, Some(Duration::from_millis(50))).unwrap().is_none());
    }
}
