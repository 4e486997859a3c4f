//! A pseudo-terminal with a program in it, and what the program has drawn.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::libc;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

/// Time limit for what the program draws. It passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a program in it. Dropping it ends the program.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    /// Kept open, so that its settings can be read after the program has ended.
    slave: File,
    output: Receiver<Vec<u8>>,
    screen: Vec<Vec<char>>,
    cursor: (usize, usize),
    /// The beginning of an escape sequence or character.
    rest: Vec<u8>,
    /// All that was written.
    pub raw: String,
}

impl Terminal {
    /// Runs `command` in a terminal of its own, as its controlling one.
    ///
    /// # Errors
    /// When there is none, or the program cannot be run.
    pub fn start(mut command: Command, [width, height]: [u16; 2]) -> anyhow::Result<Self> {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).context("opening a pseudo-terminal")?;
        let slave = File::from(slave);
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        // SAFETY: setsid and ioctl are bare system calls, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::setsid() != -1 && libc::ioctl(0, libc::TIOCSCTTY, 0) != -1 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().context("running a program in a terminal")?;
        let master = File::from(master);
        let mut reader = master.try_clone()?;
        let (sender, output) = channel();
        // Ends with the terminal, or when the receiver is dropped.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vec![vec![' '; width.into()]; height.into()];
        Ok(Self { child, master, slave, output, screen, cursor: (0, 0), rest: Vec::new(), raw: String::new() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) -> anyhow::Result<()> {
        self.master.write_all(keys.as_bytes()).context("pressing keys")
    }

    /// Waits until the screen satisfies the condition; returns it.
    ///
    /// # Errors
    /// When it does not within 20 s: with the screen.
    pub fn wait(&mut self, what: &str, mut accept: impl FnMut(&str) -> bool) -> anyhow::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if accept(&text) {
                return Ok(text);
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.draw(&bytes),
                Err(RecvTimeoutError::Timeout) => bail!("{what}: not shown in\n{text}"),
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: the program has ended with\n{text}"),
            }
        }
    }

    /// Waits until the program ends; takes in what it has written.
    ///
    /// # Errors
    /// When it does not end within 20 s.
    pub fn end(&mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("the program does not end:\n{}", self.text());
            }
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(10)) {
                self.draw(&bytes);
            }
        };
        // All is in the terminal's queue by now.
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
            self.draw(&bytes);
        }
        Ok(status)
    }

    /// Whether the terminal echoes and edits lines, as a shell needs it.
    ///
    /// # Errors
    /// When its settings cannot be read.
    pub fn is_cooked(&self) -> anyhow::Result<bool> {
        let flags = tcgetattr(&self.slave)?.local_flags;
        Ok(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG))
    }

    /// The screen's lines.
    pub fn text(&self) -> String {
        self.screen.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }

    fn draw(&mut self, bytes: &[u8]) {
        self.raw += &String::from_utf8_lossy(bytes);
        let bytes = [std::mem::take(&mut self.rest), bytes.to_vec()].concat();
        let text = match str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => {
                self.rest = bytes[error.valid_up_to()..].to_vec();
                str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
        };
        let mut rest = text;
        while let Some(one) = rest.chars().next() {
            if one == '\x1b' {
                let Some(length) = escape(rest) else {
                    self.rest.splice(0..0, rest.bytes());
                    return;
                };
                self.obey(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
            rest = &rest[one.len_utf8()..];
            let (row, column) = self.cursor;
            match one {
                '\r' => self.cursor.1 = 0,
                '\n' => self.cursor.0 += 1,
                _ => {
                    if let Some(cell) = self.screen.get_mut(row).and_then(|line| line.get_mut(column)) {
                        *cell = one;
                    }
                    self.cursor.1 += 1;
                }
            }
        }
    }

    /// Moves the cursor or clears the screen; colours and modes are ignored.
    fn obey(&mut self, sequence: &str) {
        let Some(parameters) = sequence.strip_prefix("\x1b[") else { return };
        let numbers: Vec<usize> =
            parameters[..parameters.len() - 1].split(';').map(|number| number.parse().unwrap_or(1)).collect();
        match parameters.chars().last() {
            Some('H') => self.cursor = (numbers[0] - 1, numbers.get(1).copied().unwrap_or(1) - 1),
            Some('J') => self.screen.iter_mut().for_each(|line| line.fill(' ')),
            _ => {}
        }
    }
}

/// Length of the escape sequence at the beginning; `None` if it is not complete.
fn escape(text: &str) -> Option<usize> {
    match text.as_bytes().get(1)? {
        b'[' => text[2..].find(|one: char| ('@'..='~').contains(&one)).map(|end| end + 3),
        _ => Some(2),
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have exited already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
