//! TCP between places: a pair of connected streams, and a transfer whose every byte is checked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::socket::{getsockopt, sockopt};

use super::Namespace;
use super::socket::{readable, tcp_connect};

/// Time limit for each step of opening, and for each read and write: long enough for a slow machine.
const STALL: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 * 1024;

/// A connection with both its ends, to be used from any thread. Reads and writes fail when they stall for 10 s.
#[derive(Debug)]
pub struct TcpPair {
    pub client: TcpStream,
    pub server: TcpStream,
}

/// The result of a [`tcp_transfer`].
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    pub bytes: u64,
    pub elapsed: Duration,
    /// The sender's maximum segment size, in bytes: as negotiated by the SYNs, less options.
    pub mss: u32,
}

/// Opens a connection to `to` at a place and streams `bytes` pseudo-random bytes, generated from `seed`. The far end
/// checks each byte.
///
/// # Errors
/// When the connection cannot be opened, stalls, ends early, or a byte differs: with its position.
pub fn tcp_transfer(
    from: &Namespace,
    to_place: &Namespace,
    to: IpAddr,
    bytes: u64,
    seed: u64,
) -> anyhow::Result<Transfer> {
    TcpPair::open(from, None, to_place, to)?.transfer(bytes, seed)
}

impl TcpPair {
    /// Listens on `to` at a place, at a port of the kernel's choice, and connects to it, from `source` if given.
    ///
    /// # Errors
    /// When that takes more than 10 s, or an address does not belong to its place.
    pub fn open(from: &Namespace, source: Option<IpAddr>, to_place: &Namespace, to: IpAddr) -> anyhow::Result<Self> {
        Self::open_translated(from, source, to_place, [to; 2])
    }

    /// As [`Self::open`], to an address that is another one at the place itself.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_translated(
        from: &Namespace,
        source: Option<IpAddr>,
        to_place: &Namespace,
        [to, own]: [IpAddr; 2],
    ) -> anyhow::Result<Self> {
        let listener = to_place
            .enter(|| TcpListener::bind(SocketAddr::new(own, 0)))?
            .with_context(|| format!("listening on {own} in {}", to_place.name()))?;
        let address = SocketAddr::new(to, listener.local_addr()?.port());
        let client = from
            .enter(|| tcp_connect(source, address, STALL))?
            .with_context(|| format!("from {} to {}", from.name(), to_place.name()))?;
        if !readable(&listener, Instant::now() + STALL)? {
            bail!("{} saw no connection from {} within {STALL:?}", to_place.name(), from.name());
        }
        let (server, _) = listener.accept().context("accepting the connection")?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(STALL))?;
            stream.set_write_timeout(Some(STALL))?;
        }
        Ok(Self { client, server })
    }

    /// Streams bytes from the client to the server, as [`tcp_transfer`]; the connection stays open.
    ///
    /// # Errors
    /// When it stalls, ends early, or a byte differs.
    pub fn transfer(&mut self, bytes: u64, seed: u64) -> anyhow::Result<Transfer> {
        let start = Instant::now();
        let Self { client, server } = self;
        let (sent, received) = thread::scope(|scope| {
            let sender = scope.spawn(|| send(client, bytes, seed));
            let received = receive(server, bytes, seed);
            if received.is_err() {
                // Do not let the sender wait for a reader that has given up.
                drop(server.shutdown(std::net::Shutdown::Both));
            }
            (sender.join().expect("the sender does not panic"), received)
        });
        received?;
        sent?;
        let mss = getsockopt(&*client, sockopt::TcpMaxSeg).context("reading the MSS")?;
        Ok(Transfer { bytes, elapsed: start.elapsed(), mss })
    }
}

fn send(stream: &mut TcpStream, bytes: u64, seed: u64) -> anyhow::Result<()> {
    let mut noise = Noise(seed);
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < bytes {
        noise.fill(&mut chunk);
        let length = usize::try_from(bytes - done).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(&chunk[..length]).with_context(|| format!("sending after {done} of {bytes} bytes"))?;
        done += length as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, bytes: u64, seed: u64) -> anyhow::Result<()> {
    let mut noise = Noise(seed);
    let (mut expected, mut chunk) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut done = 0;
    while done < bytes {
        noise.fill(&mut expected);
        let length = usize::try_from(bytes - done).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = &mut chunk[..length];
        stream.read_exact(chunk).with_context(|| format!("receiving after {done} of {bytes} bytes"))?;
        if let Some(at) = chunk.iter().zip(&expected).position(|(got, want)| got != want) {
            bail!("byte {} of {bytes} is {:#04x} and was sent as {:#04x}", done + at as u64, chunk[at], expected[at]);
        }
        done += length as u64;
    }
    Ok(())
}

/// Pseudo-random bytes from a seed, the same everywhere: `SplitMix64` (Steele, Lea, Flood 2014).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for bytes in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..bytes.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_splitmix64() {
        let mut bytes = [0; 16];
        Noise(1_234_567).fill(&mut bytes);
        // The first two outputs of the reference implementation for this seed.
        let outputs = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973];
        assert_eq!(bytes[..8], outputs[0].to_le_bytes());
        assert_eq!(bytes[8..], outputs[1].to_le_bytes());
    }

    #[test]
    fn wrong_byte_in_stream_is_reported_by_offset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(STALL)).unwrap();
        let mut bytes = vec![0; 100];
        Noise(7).fill(&mut bytes);
        bytes[42] ^= 1;
        client.write_all(&bytes).unwrap();
        let error = receive(&mut server, 100, 7).unwrap_err().to_string();
        assert!(error.starts_with("byte 42 of 100 is"), "{error}");
    }
}
