//! `run --record FILE`: every input event of [`step`](super::step::step), as a line of JSON.
//!
//! | file | contents |
//! | --- | --- |
//! | `format` | the header and the lines |
//! | `read` | parses a recording into events, for tests that replay it |
//!
//! A separate thread compares, formats and writes. The agent only queues a copy of the event, which costs a few
//! reference counts, and never waits. If the queue is full or the file cannot be written, the recording ends.

pub(super) mod format;
#[cfg(test)]
pub(super) mod read;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    iter,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tracing::{info, warn};

use self::format::{Encoder, RecordingHeader};
use super::event::Event;

/// Maximum size of a recording in bytes.
const MOST_BYTES: usize = 256 << 20;
/// Maximum number of recordings of earlier agents beside one.
const MOST_EARLIER: usize = 9;
/// Events that the writer may lag behind.
const QUEUE: usize = 8192;
/// Bytes per write while the queue is not empty.
const BATCH: usize = 64 << 10;
/// Longest wait for the writer at a stop.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A file to record into.
#[derive(Debug)]
pub struct Recording {
    file: File,
    path: PathBuf,
}

impl Recording {
    /// Creates the file with mode 0600. Follows no symbolic link and overwrites nothing: if the name exists, the file
    /// is `PATH.1`, up to `PATH.9`. An agent that systemd restarts after a crash therefore preserves the recording of
    /// that crash. If all names exist, there is no recording: a unit that restarts again and again must not end with an
    /// agent that does not start.
    ///
    /// # Errors
    /// When the file cannot be created for another reason.
    pub fn create(path: &Path) -> Result<Option<Self>> {
        let numbered = (1..=MOST_EARLIER).map(|number| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        });
        for path in iter::once(path.to_owned()).chain(numbered) {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Some(Self { file, path })),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => bail!("cannot record to {}: {error}", path.display()),
            }
        }
        let path = path.display();
        warn!(name: "recording_refused", "nothing is recorded: {path} exists, and so do {path}.1 to {path}.{MOST_EARLIER}: move them away");
        Ok(None)
    }

    /// Writes the header, then the recorded events. `began` is the time at which the header was taken.
    ///
    /// # Errors
    /// When the header cannot be serialized or the thread cannot be started.
    pub(super) fn begin(self, header: &RecordingHeader, began: Instant) -> Result<Recorder> {
        let Self { file, path } = self;
        let (events, queue) = sync_channel(QUEUE);
        let (end, ended) = sync_channel(0);
        let mut writer =
            RecordWriter { out: file, buffer: Vec::new(), left: MOST_BYTES, began, encoder: Encoder::default() };
        let first = writer.encoder.header(header)?;
        info!(name: "recording_started", "recording events to {}", path.display());
        thread::Builder::new().name("record".to_owned()).spawn(move || {
            writer.buffer.extend(first.into_bytes());
            match writer.run(&queue) {
                Ok(()) => {}
                Err(Stop::Full) => {
                    warn!(name: "recording_ended", "the recording {} has {} MiB and ends here", path.display(), MOST_BYTES >> 20);
                }
                Err(Stop::Failed(error)) => warn!(name: "recording_ended", "the recording {} ends here: {error}", path.display()),
            }
            // The recorder must see the end before its drop does.
            drop(queue);
            drop(end);
        })?;
        Ok(Recorder { events: Some(events), ended })
    }
}

/// Records until dropped.
#[derive(Debug)]
pub(super) struct Recorder {
    /// `None` after the recording has ended.
    events: Option<SyncSender<(Instant, Event)>>,
    /// Disconnected when everything is written.
    ended: Receiver<()>,
}

impl Recorder {
    pub fn record(&mut self, event: &Event, now: Instant) {
        let Some(events) = &self.events else { return };
        match events.try_send((now, event.clone())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                warn!(name: "recording_ended", "the recording ends here: its file is written too slowly");
                self.events = None;
            }
            // The writer has logged the reason.
            Err(TrySendError::Disconnected(_)) => self.events = None,
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.events = None;
        if self.ended.recv_timeout(END_WITHIN) == Err(RecvTimeoutError::Timeout) {
            warn!(name: "recording_ended", "the end of the recording is not written: its file is written too slowly");
        }
    }
}

/// Why a recording ends before the agent.
enum Stop {
    Full,
    Failed(io::Error),
}

struct RecordWriter<W> {
    out: W,
    /// Complete lines.
    buffer: Vec<u8>,
    /// Bytes left until [`MOST_BYTES`].
    left: usize,
    began: Instant,
    encoder: Encoder,
}

impl<W: Write> RecordWriter<W> {
    /// Runs until the recorder is dropped.
    fn run(&mut self, queue: &Receiver<(Instant, Event)>) -> Result<(), Stop> {
        loop {
            let next = match queue.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Disconnected) => return self.flush(),
                Err(TryRecvError::Empty) => {
                    // A reader may look at the file now, or the agent may be killed.
                    self.flush()?;
                    let Ok(next) = queue.recv() else { return Ok(()) };
                    next
                }
            };
            let (now, event) = next;
            let line = self.encoder.line(&event, now.saturating_duration_since(self.began));
            if let Some(line) = line.map_err(|error| Stop::Failed(error.into()))? {
                self.buffer.extend(line.into_bytes());
            }
            if self.buffer.len() >= BATCH {
                self.flush()?;
            }
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let left = self.left.checked_sub(self.buffer.len()).ok_or(Stop::Full)?;
        self.left = left;
        self.out.write_all(&self.buffer).map_err(Stop::Failed)?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
