//! The program's records of packets: their switch, filters and ring. See [`hub_common::maps::CaptureSwitch`].

use std::{
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, PerCpuValues, RingBuf},
    util::nr_cpus,
};
use hub_common::maps::{
    CAPTURE_OUTCOMES, CAPTURE_RING_BYTES, CaptureFilter, CaptureLimit, CaptureRecord, CaptureSwitch, FORWARDED,
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    DatapathError,
    named_map::{Named, take},
};

/// The section of the program's variable `CAPTURE_SWITCH`.
const SWITCH: &str = ".data.capture";
const RING: &str = "CAPTURE";
/// The program stops recording this long after the last [`PacketTap::renew`].
const EXPIRES: Duration = Duration::from_secs(10);

/// A packet that the program has dropped, passed or forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketRecord {
    pub head: CaptureRecord,
    /// Its first bytes, without a tag that the kernel had removed.
    pub bytes: Vec<u8>,
}

/// The only reader of the ring. The program stops recording when it is dropped.
pub struct PacketTap {
    map: MapData,
    /// The mapped ring, while there is a filter: twice its size counts as the agent's memory.
    ring: Option<RingBuf<MapData>>,
    switch: Named<Array<MapData, CaptureSwitch>>,
    filters: Named<Array<MapData, CaptureFilter>>,
    limits: Named<PerCpuArray<MapData, CaptureLimit>>,
    cpus: usize,
    state: CaptureSwitch,
}

impl PacketTap {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let Some(Map::RingBuf(map)) = ebpf.take_map(RING) else {
            unreachable!("the embedded object has the ring; taken once");
        };
        let cpus = nr_cpus().map_err(|(path, error)| DatapathError::Load(format!("{path}: {error}")))?;
        let (switch, filters) = (take(ebpf, SWITCH)?, take(ebpf, "CAPTURE_FILTERS")?);
        let limits = take(ebpf, "CAPTURE_LIMITS")?;
        Ok(Self { map, ring: None, switch, filters, limits, cpus, state: CaptureSwitch::default() })
    }

    /// Records the packets that a filter admits, until [`PacketTap::remove`]. `slot`: below
    /// [`CAPTURE_FILTERS`](hub_common::maps::CAPTURE_FILTERS), and not in use.
    pub fn insert(&mut self, slot: u32, filter: &CaptureFilter) -> Result<(), DatapathError> {
        if self.ring.is_none() {
            self.ring = Some(self.open()?);
        }
        for outcome in 0..CAPTURE_OUTCOMES {
            let zero = PerCpuValues::try_from(vec![CaptureLimit::default(); self.cpus])
                .map_err(|error| DatapathError::Map { map: self.limits.name, cause: error.to_string() })?;
            let set = self.limits.map.set(slot * CAPTURE_OUTCOMES + outcome, zero, 0);
            set.map_err(|error| DatapathError::map(self.limits.name, self.limits.capacity, &error))?;
        }
        self.filters.put(&slot, filter)?;
        self.state.filters |= 1 << slot;
        if filter.outcomes & 1 << FORWARDED != 0 {
            self.state.forwards |= 1 << slot;
        }
        self.renew().inspect_err(|_| self.clear(slot))
    }

    pub fn remove(&mut self, slot: u32) -> Result<(), DatapathError> {
        self.clear(slot);
        let renewed = self.renew();
        if self.state.filters == 0 {
            self.ring = None;
        }
        renewed
    }

    fn open(&self) -> Result<RingBuf<MapData>, DatapathError> {
        let fd = self.map.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| DatapathError::Map { map: RING, cause: error.to_string() })?;
        let ring = MapData::from_fd(fd).and_then(|map| RingBuf::try_from(Map::RingBuf(map)));
        let mut ring = ring.map_err(|error| DatapathError::map(RING, CAPTURE_RING_BYTES, &error))?;
        // The kernel does not wake the reader of a ring that has unread records (`bpf_ringbuf_commit`).
        while ring.next().is_some() {}
        Ok(ring)
    }

    fn clear(&mut self, slot: u32) {
        self.state.filters &= !(1 << slot);
        self.state.forwards &= !(1 << slot);
    }

    /// Call it every few seconds while there is a filter: so the program stops when the agent is gone.
    pub fn renew(&mut self) -> Result<(), DatapathError> {
        self.state.until = match self.state.filters {
            0 => 0,
            _ => monotonic() + EXPIRES.as_nanos() as u64,
        };
        self.switch.put(&0, &self.state)
    }

    /// The next record, if there is one.
    pub fn read(&mut self) -> Option<PacketRecord> {
        loop {
            let item = self.ring.as_mut()?.next()?;
            if let Some((head, bytes)) = CaptureRecord::read(&item) {
                return Some(PacketRecord { head, bytes: bytes.to_vec() });
            }
        }
    }

    /// Packets that a filter admits but that were not recorded, because of the rate limit or a full ring; since the
    /// filter's insertion.
    pub fn left_out(&self, slot: u32, outcome: u32) -> Result<u64, DatapathError> {
        let limits = self.limits.map.get(&(slot * CAPTURE_OUTCOMES + outcome), 0);
        let limits = limits.map_err(|error| DatapathError::map(self.limits.name, self.limits.capacity, &error))?;
        Ok(limits.iter().map(|limit| limit.left_out).sum())
    }
}

impl Drop for PacketTap {
    fn drop(&mut self) {
        self.state = CaptureSwitch::default();
        // An error is harmless: the switch expires.
        let _ = self.renew();
    }
}

impl AsRawFd for PacketTap {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}

/// The clock of [`CaptureRecord::time`].
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
