//! The kernel's packet generator, by its files in /proc/net/pktgen (Documentation/networking/pktgen.rst).

use std::{fs, net::IpAddr, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use hub_tests::lab::{AtInterrupt, Mac, Namespace};

use crate::expect::PORT;

/// That of the thread that looks: each namespace has its own.
const DIRECTORY: &str = "/proc/thread-self/net/pktgen";
/// The first source port; flows have as many.
const FIRST_SOURCE_PORT: u32 = 0x8000;

/// The traffic to send.
#[derive(Clone, Copy)]
pub struct Frames {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The next hop's.
    pub mac: Mac,
    /// From the Ethernet header on, without the frame check sequence.
    pub bytes: u32,
    pub flows: u32,
    /// Copies of one frame handed over at once.
    pub burst: u32,
}

/// How many, and how fast.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Frames a second of all threads together; `None` is as fast as they can.
    pub rate: Option<u64>,
    pub frames: u64,
    /// By the way through the queueing discipline, where programs see the frames.
    pub queued: bool,
}

/// pktgen's result of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub sent: u64,
    /// Frames that the driver refused.
    pub errors: u64,
    pub microseconds: u64,
}

/// pktgen in a namespace, with one device on so many of its threads. Dropping it takes the device off them.
pub struct Pktgen {
    namespace: Namespace,
    device: String,
    threads: u32,
    /// Its threads are the kernel's: they would go on when this process ends.
    _at_interrupt: AtInterrupt,
}

impl Pktgen {
    /// Why there is none in this kernel; `None` when there is. Loads its module where it is one.
    pub fn missing() -> Option<&'static str> {
        let there = || Path::new(DIRECTORY).join("pgctrl").exists();
        if !there() {
            // Without modules, or without this one, it fails: then the file is not there either.
            drop(Command::new("modprobe").args(["-q", "pktgen"]).status());
        }
        (!there()).then_some(
            "this kernel has no pktgen (CONFIG_NET_PKTGEN, module pktgen): `forward` floods a hub with live frames \
             instead",
        )
    }

    /// # Errors
    /// When there are fewer threads (one a CPU), or pktgen is at work in this namespace already.
    pub fn take(namespace: Namespace, device: &str, threads: u32) -> Result<Self> {
        for thread in 0..threads {
            let text = read(&namespace, &format!("kpktgend_{thread}"))
                .with_context(|| format!("--threads {threads}: pktgen has a thread for each CPU"))?;
            if let Some(other) = stopped_or_running(&text) {
                bail!(
                    "pktgen thread {thread} has the device {other} already: `echo rem_device_all > \
                     /proc/net/pktgen/kpktgend_{thread}` takes it off"
                );
            }
        }
        let at_work = namespace.duplicate()?;
        let at_interrupt = AtInterrupt::run(move || {
            drop(at_work.enter(|| write("pgctrl", "stop")));
            take_off(&at_work, threads);
        });
        let pktgen = Self { namespace, device: device.to_owned(), threads, _at_interrupt: at_interrupt };
        for thread in 0..threads {
            pktgen.write(&format!("kpktgend_{thread}"), &format!("add_device {}", pktgen.name(thread)))?;
        }
        Ok(pktgen)
    }

    /// Sends, and waits until all is sent.
    pub fn send(&self, frames: &Frames, pace: Pace) -> Result<Vec<Outcome>> {
        for thread in 0..self.threads {
            for line in commands(frames, pace, self.threads) {
                let written = self.write(&self.name(thread), &line);
                if line.starts_with("burst") {
                    // ENOTSUPP, which has no text.
                    written.with_context(|| format!("{} takes no bursts: leave --burst out", self.device))?;
                } else {
                    written?;
                }
            }
        }
        self.write("pgctrl", "start")?;
        (0..self.threads).map(|thread| parse(&read(&self.namespace, &self.name(thread))?)).collect()
    }

    /// Name of the device on a thread: each thread has a queue of its own.
    fn name(&self, thread: u32) -> String {
        format!("{}@{thread}", self.device)
    }

    fn write(&self, file: &str, line: &str) -> Result<()> {
        self.namespace.enter(|| write(file, line))?
    }
}

impl Drop for Pktgen {
    fn drop(&mut self) {
        take_off(&self.namespace, self.threads);
    }
}

/// Takes all devices off so many threads, which had none before.
fn take_off(namespace: &Namespace, threads: u32) {
    for thread in 0..threads {
        // Nothing can be done about one that stays.
        drop(namespace.enter(|| write(&format!("kpktgend_{thread}"), "rem_device_all")));
    }
}

fn read(namespace: &Namespace, file: &str) -> Result<String> {
    let path = Path::new(DIRECTORY).join(file);
    namespace.enter(|| fs::read_to_string(&path))?.with_context(|| format!("reading {}", path.display()))
}

/// A line for one of its files. The kernel takes the last byte for a newline.
fn write(file: &str, line: &str) -> Result<()> {
    let path = Path::new(DIRECTORY).join(file);
    fs::write(&path, format!("{line}\n")).with_context(|| format!("writing `{line}` to {}", path.display()))
}

/// The settings of one of so many threads.
fn commands(frames: &Frames, pace: Pace, threads: u32) -> Vec<String> {
    let &Frames { source, destination, mac, bytes, flows, burst } = frames;
    let burst = if pace.queued { 1 } else { burst };
    // In a nanosecond's steps; each burst waits once.
    let delay = pace.rate.map_or(0, |rate| 1_000_000_000 * u64::from(threads) * u64::from(burst) / rate.max(1));
    let mut lines = vec![
        format!("count {}", (pace.frames / u64::from(threads)).max(1)),
        "clone_skb 0".to_owned(),
        format!("pkt_size {bytes}"),
        format!("delay {delay}"),
        // First back to 1: the other way takes no bursts, and refuses to be chosen with one.
        "burst 1".to_owned(),
        format!("xmit_mode {}", if pace.queued { "queue_xmit" } else { "start_xmit" }),
        format!("dst_mac {mac}"),
        format!("udp_src_min {FIRST_SOURCE_PORT}"),
        // The first port that is not used any more; the same as the first for a single flow.
        format!("udp_src_max {}", FIRST_SOURCE_PORT + if flows > 1 { flows } else { 0 }),
        format!("udp_dst_min {PORT}"),
        format!("udp_dst_max {PORT}"),
    ];
    match (source, destination) {
        (IpAddr::V6(_), _) | (_, IpAddr::V6(_)) => {
            lines.extend([format!("src6 {source}"), format!("dst6 {destination}")]);
        }
        _ => lines.extend(
            ["src_min", "src_max"]
                .map(|key| format!("{key} {source}"))
                .into_iter()
                .chain(["dst_min", "dst_max"].map(|key| format!("{key} {destination}"))),
        ),
    }
    if burst > 1 {
        lines.push(format!("burst {burst}"));
    }
    lines
}

/// A device that a thread's file names.
fn stopped_or_running(text: &str) -> Option<&str> {
    let lists = text.lines().filter_map(|line| line.strip_prefix("Running:").or_else(|| line.strip_prefix("Stopped:")));
    lists.flat_map(str::split_whitespace).next()
}

/// Reads a device's file after a run.
fn parse(text: &str) -> Result<Outcome> {
    let (_, result) = text.rsplit_once("Result:").context("pktgen's file has no result")?;
    let result = result.trim();
    let Some(times) = result.strip_prefix("OK: ") else {
        bail!("pktgen did not send: {}", result.lines().next().unwrap_or_default());
    };
    // "13101142(c12220741+d880401) usec, 10000000 (60byte,0frags)": in all, at work, waiting.
    let number = |text: &str| text.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let (time, packets) = times.split_once("usec,").with_context(|| format!("pktgen says {result:?}"))?;
    let errors = text.rsplit_once("errors:").and_then(|(_, errors)| number(errors));
    let outcome = number(time).zip(number(packets)).zip(errors);
    let ((microseconds, sent), errors) = outcome.with_context(|| format!("pktgen says {result:?}"))?;
    ensure!(microseconds > 0, "pktgen reports that it sent for no time");
    Ok(Outcome { sent, errors, microseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "Params: count 10000000  min_pkt_size: 60  max_pkt_size: 60\n     \
        frags: 0  delay: 0  clone_skb: 0  ifname: wan0@0\n     flows: 0 flowlen: 0\n     queue_map_min: 0  queue_map_max: 0\n     \
        dst_min: 10.10.20.1  dst_max: 10.10.20.1\n     src_min: 10.10.10.1  src_max: 10.10.10.1\n     \
        src_mac: 02:00:00:00:02:02 dst_mac: 02:00:00:00:02:01\n     \
        udp_src_min: 32768  udp_src_max: 32832  udp_dst_min: 9  udp_dst_max: 9\n     src_mac_count: 0  dst_mac_count: 0\n     \
        Flags: \nCurrent:\n     pkts-sofar: 10000000  errors: 39664\n     \
        started: 1103053986245187us  stopped: 1103053999346329us idle: 880401us\n     \
        seq_num: 10000011  cur_dst_mac_offset: 0  cur_src_mac_offset: 0\n     cur_saddr: 10.10.10.1  cur_daddr: 10.10.20.1\n     \
        cur_udp_dst: 9  cur_udp_src: 32790\n     cur_queue_map: 0\n     flows: 0\n\
        Result: OK: 13101142(c12220741+d880401) usec, 10000000 (60byte,0frags)\n  \
        763292pps 390Mb/sec (390805504bps) errors: 39664\n";

    #[test]
    fn outcome_of_finished_run_is_parsed() {
        let expected = Outcome { sent: 10_000_000, errors: 39_664, microseconds: 13_101_142 };
        assert_eq!(parse(RUN).unwrap(), expected);
    }

    #[test]
    fn outcome_of_unfinished_run_is_error() {
        for (result, says) in
            [("Result: Idle\n", "Idle"), ("Result: OK: count=1000\n", "count=1000"), ("", "no result")]
        {
            let text = RUN.split("Result:").next().unwrap().to_owned() + result;
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn thread_status_names_its_device() {
        assert_eq!(stopped_or_running("Running: \nStopped: eth1@0 \nResult: OK: add_device=eth1@0\n"), Some("eth1@0"));
        assert_eq!(stopped_or_running("Running: \nStopped: \nResult: OK: rem_device_all\n"), None);
    }

    #[test]
    fn rate_and_frames_are_split_among_threads() {
        let frames = |source: &str, destination: &str, burst| Frames {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            bytes: 60,
            flows: 64,
            burst,
        };
        let pace = Pace { rate: Some(100_000), frames: 1_000_001, queued: false };
        let lines = commands(&frames("10.10.10.1", "10.10.20.1", 4), pace, 2);
        for line in [
            "count 500000",
            // Each of two threads makes 50,000 a second: a burst of 4 each 80 us.
            "delay 80000",
            "burst 4",
            "dst_mac 02:00:00:00:00:01",
            "udp_src_max 32832",
            "src_max 10.10.10.1",
            "dst_min 10.10.20.1",
        ] {
            assert!(lines.iter().any(|other| other == line), "{line} in {lines:?}");
        }
        let stamped = commands(&frames("fd00::1", "fd00::2", 4), Pace { queued: true, ..pace }, 1);
        assert!(stamped.contains(&"dst6 fd00::2".to_owned()) && stamped.contains(&"xmit_mode queue_xmit".to_owned()));
        assert!(stamped.contains(&"delay 10000".to_owned()) && !stamped.contains(&"burst 4".to_owned()));
        let fast = commands(&frames("10.10.10.1", "10.10.20.1", 1), Pace { rate: None, ..pace }, 2);
        assert!(fast.contains(&"delay 0".to_owned()));
    }
}
