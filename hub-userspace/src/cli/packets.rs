//! `vpnhub monitor --packets` and `vpnhub capture`.

use std::{
    fs::{OpenOptions, Permissions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, error::ErrorKind};
use hub_common::maps::MAX_SNAPLEN;
use ipnet::IpNet;
use rustix::fs::OFlags;

use super::{Cli, END_WITHIN, Output, pcapng::CaptureFile, printed, table};
use crate::{
    api::{Client, PacketQuery},
    api_types::event::ConnectionEvent,
    api_types::packet::{PacketEvent, PacketLine, PacketLink, PacketVerdict},
};

/// The packets to show. All conditions must hold.
#[derive(Debug, Default, PartialEq, Args)]
pub struct PacketFilter {
    /// Only packets dropped or passed for this reason, such as `selector_mismatch`. Several: repeat it, or separate them by
    /// commas.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
    /// Only packets from this connection, or forwarded to it; `vpc` for the VPC's side.
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// Only packets with a source in this prefix.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    src: Option<IpNet>,
    /// Only packets with a destination in this prefix.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    dst: Option<IpNet>,
    /// Only packets of this IP protocol: a number, tcp, udp, icmp or icmpv6.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<u8>,
    /// Only packets with this source port.
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// Only packets with this destination port.
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// Also forwarded packets, as they are sent: one of N at random.
    #[arg(long, value_name = "1/N", value_parser = sample)]
    forwarded: Option<u32>,
}

impl PacketFilter {
    fn query(self, snaplen: Option<u32>) -> PacketQuery {
        let Self { reason, connection, src, dst, protocol, sport, dport, forwarded } = self;
        let reason = (!reason.is_empty()).then(|| reason.join(","));
        PacketQuery { reason, connection, src, dst, protocol, sport, dport, forwarded, snaplen }
    }
}

#[derive(Debug, Args)]
pub struct MonitorArgs {
    /// Show packets. Needs root.
    #[arg(long)]
    packets: bool,
    /// End after this many packets.
    #[arg(long, value_name = "N", requires = "packets", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    filter: PacketFilter,
}

#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// File to write, in the format pcapng; `-` for standard output. An existing file is replaced.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// End after this many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Bytes of each packet to capture.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SNAPLEN)))]
    snaplen: u32,
    #[command(flatten)]
    filter: PacketFilter,
}

/// A prefix, or an address for the prefix of its full length. Host bits are ignored.
fn prefix(text: &str) -> Result<IpNet, String> {
    let prefix = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    prefix.map(|prefix| prefix.trunc()).ok_or_else(|| "write an address or a prefix, such as 10.10.10.0/24".to_owned())
}

fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmpv6" => Ok(58),
        number => number.parse().map_err(|_| "write tcp, udp, icmp, icmpv6, or a number from 0 to 255".to_owned()),
    }
}

fn sample(text: &str) -> Result<u32, String> {
    let one_in = text.strip_prefix("1/").and_then(|number| number.parse().ok()).filter(|one_in| *one_in != 0);
    one_in.ok_or_else(|| "write 1/N, such as 1/1000 for one of a thousand".to_owned())
}

/// Flushes immediately, also into a pipe, whose end is an error and no panic.
fn show(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Prints changes of connections, or packets, until interrupted.
pub async fn monitor(client: &Client, arguments: MonitorArgs, output: Output) -> Result<String> {
    let MonitorArgs { packets, count, filter } = arguments;
    if !packets {
        if filter != PacketFilter::default() {
            let problem = "conditions for packets need --packets\n";
            Cli::command().error(ErrorKind::MissingRequiredArgument, problem).exit();
        }
        client.follow(|event: &ConnectionEvent| show(&printed(event, table::event, output)?)).await?;
    }
    let mut shown = 0;
    let handle = |line: &PacketLine| {
        shown += u64::from(matches!(line, PacketLine::Packet(_)));
        show(&printed(line, table::packet, output)?).map(|()| count.is_none_or(|count| shown < count))
    };
    let started = || {
        eprintln!("listening for packets");
        Ok(())
    };
    client.packets(&filter.query(None), started, handle).await?;
    Ok(String::new())
}

/// Writes packets to a file until interrupted, or until there are enough.
pub async fn capture(client: &Client, arguments: CaptureArgs) -> Result<String> {
    let CaptureArgs { write, count, snaplen, filter } = arguments;
    let file = std::cell::RefCell::new(None);
    let (mut captured, mut left_out) = (0_u64, 0_u64);
    let started = || {
        *file.borrow_mut() = Some(CaptureFile::start(open(&write)?, snaplen).context(cannot_write(&write))?);
        eprintln!(
            "capturing to {}",
            if write == Path::new("-") { "standard output".into() } else { write.display().to_string() }
        );
        Ok(())
    };
    let handle = |line: &PacketLine| {
        match line {
            PacketLine::Packet(packet) => {
                let mut file = file.borrow_mut();
                let file: &mut CaptureFile = file.as_mut().context("the file is open")?;
                file.write(packet).context(cannot_write(&write))?;
                captured += 1;
            }
            PacketLine::LeftOut(packets) => {
                left_out += packets.left_out;
                eprint!("{}", table::packet(line));
            }
        }
        Ok(count.is_none_or(|count| captured < count))
    };
    let query = filter.query(Some(snaplen));
    tokio::spawn(end_of_stalled_output());
    tokio::select! {
        result = client.packets(&query, started, handle) => result?,
        _ = tokio::signal::ctrl_c() => {}
    }
    eprintln!("{captured} packets captured, {left_out} left out");
    Ok(String::new())
}

/// Ends the process after Ctrl-C if writing blocks: into a pipe that nobody reads. Otherwise the process has ended before.
async fn end_of_stalled_output() {
    if tokio::signal::ctrl_c().await.is_ok() {
        tokio::time::sleep(END_WITHIN).await;
        eprintln!("vpnhub: the capture is not read: it ends incomplete");
        std::process::exit(1);
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Only its owner may read the file: packets are the sites' own. That of an existing file changes before anything is
/// written. Symbolic links are not followed: somebody else may have put one into a directory such as /tmp.
fn open(path: &Path) -> Result<Box<dyn io::Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let open = || {
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().write(true).create(true).mode(0o600).custom_flags(no_follow).open(path)?;
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.set_len(0)?;
        }
        Ok::<_, io::Error>(file)
    };
    Ok(Box::new(open().with_context(|| format!("{}: choose another place with -w", cannot_write(path)))?))
}

/// The comment of a packet in a capture: `drop selector_mismatch, connection shanghai`.
pub fn comment(packet: &PacketEvent) -> String {
    let verdict = match packet.verdict {
        PacketVerdict::Drop => "drop",
        PacketVerdict::Pass => "pass",
        PacketVerdict::Forward => "forward",
    };
    let reason = packet.reason.as_ref().map(|reason| format!(" {reason}")).unwrap_or_default();
    let connection = packet.connection.as_ref().map(|name| format!(", connection {name}")).unwrap_or_default();
    let next_hop = packet.next_hop.as_ref().map(|name| format!(", next hop {name}")).unwrap_or_default();
    format!("{verdict}{reason}{connection}{next_hop}")
}

/// Whether its bytes start with an Ethernet header.
pub fn is_ethernet(packet: &PacketEvent) -> bool {
    packet.link == PacketLink::Ethernet
}
