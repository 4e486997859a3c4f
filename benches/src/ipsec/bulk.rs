//! TCP from site to site: packets far longer than an MTU at the hub.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use hub_tests::lab::{HUB, TcpPair};

use super::{
    lab::{HOSTS4, Lab, SITES},
    tunnels,
};
use crate::stats::float;

const CHUNK: usize = 64 << 10;

/// Nanoseconds of a byte, and the mean size of the packets that the hub sends to the second site.
pub fn run(lab: &Lab, bytes: u64) -> Result<(f64, f64)> {
    let [from, to] = SITES.map(|site| &lab.world[site]);
    let [source, destination] = HOSTS4.map(|host| host.parse().expect("an address"));
    let mut pair = TcpPair::open(from, Some(source), to, destination)?;
    // The window opens.
    transfer(&mut pair, bytes / 8)?;
    let device = tunnels::device(1);
    let before = lab.world[HUB].counters(&device)?;
    let cost = transfer(&mut pair, bytes)?;
    let after = lab.world[HUB].counters(&device)?;
    let packets = after.tx_packets - before.tx_packets;
    ensure!(packets > 0, "no packet was sent by {device}");
    Ok((cost, float(after.tx_bytes - before.tx_bytes) / float(packets)))
}

/// Nanoseconds of a byte.
fn transfer(pair: &mut TcpPair, bytes: u64) -> Result<f64> {
    let TcpPair { client, server } = pair;
    let begin = Instant::now();
    let sent = thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| {
            let chunk = vec![0; CHUNK];
            let mut left = bytes;
            while left > 0 {
                let length = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                client.write_all(&chunk[..length])?;
                left -= length as u64;
            }
            Ok::<_, std::io::Error>(())
        });
        let (mut chunk, mut left) = (vec![0; CHUNK], bytes);
        while left > 0 {
            let length = server.read(&mut chunk).context("receiving")?;
            ensure!(length > 0, "the connection ended {left} bytes early");
            left = left.checked_sub(length as u64).context("more came than was sent")?;
        }
        sender.join().expect("the sender does not panic").context("sending")
    });
    sent?;
    Ok(begin.elapsed().as_secs_f64() * 1e9 / float(bytes))
}
