use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;
use crate::{
    agent::{
        Transition,
        record::read::{Recorded, read},
    },
    config::{Config, difference::Difference, load},
    connection::memory::Clock,
    datapath::{AttachMode, Inherited},
    kernel::netlink::HostState,
};

const SECRET: &str = "correct-horse-battery-staple";

/// A configuration with a secret in a separate file.
fn config(folder: &Path) -> Config {
    let secret = folder.join("site.psk");
    let text = format!(
        "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\n\
         [customer_gateway.site]\naddress = \"198.51.100.1\"\n\
         [connection.site]\ncustomer_gateway = \"site\"\ninterface = \"tun0\"\n\
         local_cidrs = [\"192.168.0.0/16\"]\nremote_cidrs = [\"10.1.0.0/16\"]\n\
         [connection.site.ipsec]\npsk_file = {:?}\nif_id = 1\n",
        secret.display().to_string()
    );
    fs::write(folder.join("vpnhub.toml"), text).unwrap();
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    load(&folder.join("vpnhub.toml")).unwrap().config
}

fn header(config: &Config, now: Instant) -> RecordingHeader {
    RecordingHeader::new(
        config,
        &HostState::default(),
        &Inherited::default(),
        AttachMode::Auto,
        Clock::at(now, Duration::ZERO),
        now,
    )
}

#[test]
fn recording_has_configuration_and_events_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (config, path, now) = (config(folder.path()), folder.path().join("events.jsonl"), Instant::now());
    let mut recorder = Recording::create(&path).unwrap().unwrap().begin(&header(&config, now), now).unwrap();
    let mut other = config.clone();
    "other".clone_into(&mut other.gateway.name);
    let transition = Transition { difference: Difference::between(&config, &other), config: Some(other.into()) };
    let events = [Event::Start, Event::Started, Event::Change(transition.into()), Event::Secrets];
    for (event, at) in events.iter().zip(0..) {
        recorder.record(event, now + Duration::from_secs(at));
    }
    drop(recorder);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("site.psk"), "{text}");
    assert!(!text.contains(SECRET), "{text}");
    let Recorded { events: read, .. } = read(&text).unwrap();
    let times: Vec<u64> = read.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [0, 1, 2, 3]);
    assert!(matches!(&read[2].1, Event::Change(change)
        if change.config.as_ref().is_some_and(|config| config.gateway.name == "other")));
}

#[test]
fn recording_file_is_owner_only_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    Recording::create(&path("new")).unwrap().unwrap();
    assert_eq!(fs::metadata(path("new")).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(path("file"), "mine").unwrap();
    symlink(path("file"), path("link")).unwrap();
    symlink(path("nothing"), path("dangling")).unwrap();
    for name in ["file", "link", "dangling"] {
        for number in 1..=9 {
            let made = Recording::create(&path(name)).unwrap().unwrap().path;
            assert_eq!(made, path(&format!("{name}.{number}")));
        }
        assert!(Recording::create(&path(name)).unwrap().is_none(), "the agent starts without a recording");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "mine");
    assert!(!path("nothing").exists());
    let error = Recording::create(&path("no/directory")).unwrap_err().to_string();
    assert!(error.contains("No such file or directory"), "{error}");
}

/// Fails after `left` bytes.
struct Disk {
    left: usize,
    has: Vec<u8>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let count = bytes.len().min(self.left);
        self.left -= count;
        self.has.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Result and size of a recording with very many events.
fn write_many(disk: usize, left: usize) -> (Result<(), Stop>, usize) {
    let (events, queue) = sync_channel(10_000);
    let now = Instant::now();
    (0..10_000).for_each(|_| events.send((now, Event::Idle)).unwrap());
    drop(events);
    let out = Disk { left: disk, has: Vec::new() };
    let mut writer = RecordWriter { out, buffer: Vec::new(), left, began: now, encoder: Encoder::default() };
    let result = writer.run(&queue);
    (result, writer.out.has.len())
}

#[test]
fn recording_ends_at_size_limit_or_full_disk() {
    let line = "{\"at\":0,\"event\":\"idle\"}\n".len();
    let (result, length) = write_many(usize::MAX, usize::MAX);
    assert!(result.is_ok());
    assert_eq!(length, 10_000 * line);
    let (result, length) = write_many(usize::MAX, 100_000);
    assert!(matches!(result, Err(Stop::Full)));
    assert!(length <= 100_000 && length % line == 0 && length > 0, "{length}");
    let (result, length) = write_many(100_000, usize::MAX);
    assert!(matches!(result, Err(Stop::Failed(error)) if error.kind() == io::ErrorKind::StorageFull));
    assert_eq!(length, 100_000);
}

#[test]
fn agent_with_unwritable_recording_continues() {
    let folder = tempfile::tempdir().unwrap();
    let (config, now) = (config(folder.path()), Instant::now());
    let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let recording = Recording { file, path: "/dev/full".into() };
    let mut recorder = recording.begin(&header(&config, now), now).unwrap();
    assert_eq!(recorder.ended.recv(), Err(std::sync::mpsc::RecvError));
    recorder.record(&Event::Idle, now);
    assert!(recorder.events.is_none());
    recorder.record(&Event::Idle, now);
}

#[test]
fn slow_recording_writer_does_not_block_agent() {
    let (events, queue) = sync_channel(2);
    let (end, ended) = sync_channel(0);
    let mut recorder = Recorder { events: Some(events), ended };
    let now = Instant::now();
    (0..3).for_each(|_| recorder.record(&Event::Idle, now));
    assert!(recorder.events.is_none());
    assert_eq!(queue.iter().count(), 2);
    drop(end);
}
