//! The ring buffer in which the program reports neighbour misses.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use hub_common::maps::Neighbour;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::sleep,
};

/// Rate limit: maximum of distinct neighbours per batch, and minimum time between batches. A scan of a large network
/// must not cause a storm of ARP requests.
const BATCH: usize = 256;
const PAUSE: Duration = Duration::from_millis(100);

/// Forwards the ring's reports, without duplicates within a batch.
pub fn follow(ring: RingBuf<MapData>) -> io::Result<mpsc::Receiver<(u32, IpAddr)>> {
    // SAFETY: the ring owns its file descriptor, which stays open and unchanged until the ring is dropped.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    let (sender, receiver) = mpsc::channel(BATCH);
    tokio::spawn(async move {
        while let Ok(mut ready) = ring.readable_mut().await {
            let desired = drain(ready.get_inner_mut());
            ready.clear_ready();
            for neighbour in desired {
                if sender.send(neighbour).await.is_err() {
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    });
    Ok(receiver)
}

/// Empties the ring. A miss beyond the batch is dropped; a later packet reports it again.
fn drain(ring: &mut RingBuf<MapData>) -> BTreeSet<(u32, IpAddr)> {
    let mut desired = BTreeSet::new();
    while let Some(record) = ring.next() {
        if let Some(neighbour) = read(&record)
            && desired.len() < BATCH
        {
            desired.insert(neighbour);
        }
    }
    desired
}

/// Parses a [`Neighbour`] by field.
fn read(record: &[u8]) -> Option<(u32, IpAddr)> {
    let (address, rest) = record.get(..size_of::<Neighbour>())?.split_first_chunk::<16>()?;
    let (ifindex, family) = rest.split_first_chunk::<4>()?;
    let address = Ipv6Addr::from(*address);
    let address = if family == 4_u32.to_ne_bytes() { address.to_canonical() } else { address.into() };
    Some((u32::from_ne_bytes(*ifindex), address))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn miss_records_of_both_families_are_parsed() {
        let record = |address: &str, family: u32| {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            [&address.octets()[..], &7_u32.to_ne_bytes(), &family.to_ne_bytes()].concat()
        };
        assert_eq!(read(&record("::ffff:192.168.0.10", 4)), Some((7, "192.168.0.10".parse().unwrap())));
        assert_eq!(read(&record("fd00::10", 6)), Some((7, "fd00::10".parse().unwrap())));
        assert_eq!(read(&record("::ffff:192.168.0.10", 6)), Some((7, "::ffff:192.168.0.10".parse().unwrap())));
        assert_eq!(read(&[0; 23]), None);
    }
}
