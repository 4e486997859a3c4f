//! The program's counters by slot. There are two maps, because every packet updates the traffic counters, and only
//! dropped ones the others.

use std::{iter::Sum, ops::Add, os::fd::AsFd as _, sync::Arc};

use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use hub_common::{
    Reason,
    maps::{Refusals, Traffic},
};

use super::{
    CpuPackets, DatapathError,
    named_map::{Named, Writer, take},
    pins::Pins,
    records::{Records, SLOTS, paths},
};

/// Counters of a slot: see [`Traffic`] and [`Refusals`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// By [`Reason`].
    pub reasons: [u64; Reason::COUNT],
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rx_packets: self.rx_packets + other.rx_packets,
            rx_bytes: self.rx_bytes + other.rx_bytes,
            tx_packets: self.tx_packets + other.tx_packets,
            tx_bytes: self.tx_bytes + other.tx_bytes,
            reasons: std::array::from_fn(|reason| self.reasons[reason] + other.reasons[reason]),
        }
    }
}

impl Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), Self::add)
    }
}

impl From<Traffic> for Counters {
    fn from(Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes }: Traffic) -> Self {
        Self { rx_packets, rx_bytes, tx_packets, tx_bytes, ..Self::default() }
    }
}

impl From<Refusals> for Counters {
    fn from(Refusals { reasons }: Refusals) -> Self {
        Self { reasons, ..Self::default() }
    }
}

/// Both maps, and the counts from earlier versions.
pub struct BySlot {
    traffic: PerCpuArray<MapData, Traffic>,
    refusals: PerCpuArray<MapData, Refusals>,
    /// `None` where the counters are only looked at.
    reader: Option<CounterReader>,
    pub records: Records,
}

/// The counters of all slots, without those of earlier versions. For use outside the agent's loop: thousands of slots
/// take milliseconds.
#[derive(Clone)]
pub struct CounterReader(Arc<(PerCpuArray<MapData, Traffic>, PerCpuArray<MapData, Refusals>)>);

impl CounterReader {
    /// A second handle of the maps.
    fn of(ebpf: &Ebpf) -> Result<Self, DatapathError> {
        Ok(Self(Arc::new((again(ebpf, "TRAFFIC")?, again(ebpf, "REFUSALS")?))))
    }

    /// Counters of a slot, summed over the CPUs. Adds its packets to `cpus`.
    pub fn read(&self, slot: u32, cpus: &mut CpuPackets) -> Result<Counters, DatapathError> {
        let (traffic, refusals) = &*self.0;
        sum(traffic, refusals, slot, cpus).map_err(|error| DatapathError::map("TRAFFIC", SLOTS, &error))
    }
}

/// Opens a map of the program again.
fn again<V: Pod>(ebpf: &Ebpf, name: &'static str) -> Result<PerCpuArray<MapData, V>, DatapathError> {
    let error = |cause: String| DatapathError::Map { map: name, cause };
    let Some(Map::PerCpuArray(map)) = ebpf.map(name) else { return Err(error("it is not there".to_owned())) };
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(|cause| error(cause.to_string()))?;
    let map = MapData::from_fd(fd).map_err(|cause| error(cause.to_string()))?;
    Map::PerCpuArray(map).try_into().map_err(|cause: MapError| error(cause.to_string()))
}

impl BySlot {
    pub fn take(ebpf: &mut Ebpf, records: Records) -> Result<Named<Self>, DatapathError> {
        let reader = Some(CounterReader::of(ebpf)?);
        let Named { map: refusals, .. } = take(ebpf, "REFUSALS")?;
        let Named { name, capacity, map: traffic } = take(ebpf, "TRAFFIC")?;
        Ok(Named { name, capacity, map: Self { traffic, refusals, reader, records } })
    }

    /// Sets the counters of a slot to zero.
    pub fn clear(&mut self, slot: u32) -> Result<(), MapError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        self.traffic.set(slot, PerCpuValues::try_from(vec![Traffic::default(); cpus])?, 0)?;
        self.refusals.set(slot, PerCpuValues::try_from(vec![Refusals::default(); cpus])?, 0)
    }

    /// Opens the counters of an instance read-only.
    pub fn look(pins: &Pins) -> Result<Named<Self>, DatapathError> {
        let records = Records::look(pins)?;
        let [(_, traffic), (_, refusals)] = paths(pins);
        let open = |path| MapData::from_pin(path).map(Map::PerCpuArray);
        let traffic =
            open(traffic).and_then(TryInto::try_into).map_err(|error| DatapathError::map("TRAFFIC", SLOTS, &error))?;
        let refusals = open(refusals)
            .and_then(TryInto::try_into)
            .map_err(|error| DatapathError::map("REFUSALS", SLOTS, &error))?;
        Ok(Named { name: "TRAFFIC", capacity: SLOTS, map: Self { traffic, refusals, reader: None, records } })
    }
}

impl Named<BySlot> {
    /// Counters of a slot, summed over the CPUs, including those of earlier versions. Adds its packets to `cpus`.
    pub fn read(&self, slot: u32, cpus: &mut CpuPackets) -> Result<Counters, DatapathError> {
        let Self { name, capacity, map: BySlot { traffic, refusals, reader: _, records } } = self;
        let counted =
            sum(traffic, refusals, slot, cpus).map_err(|error| DatapathError::map(name, *capacity, &error))?;
        Ok(counted + records.earlier(slot))
    }

    /// A reader for other threads.
    pub fn reader(&self) -> Option<CounterReader> {
        self.map.reader.clone()
    }
}

fn sum(
    traffic: &PerCpuArray<MapData, Traffic>,
    refusals: &PerCpuArray<MapData, Refusals>,
    slot: u32,
    cpus: &mut CpuPackets,
) -> Result<Counters, MapError> {
    let (traffic, refusals) = (traffic.get(&slot, 0)?, refusals.get(&slot, 0)?);
    cpus.add_traffic(&traffic);
    cpus.add_refusals(&refusals);
    let counted = traffic.iter().copied().map(Counters::from).chain(refusals.iter().copied().map(Counters::from));
    Ok(counted.sum())
}

/// A slot that gets a new owner starts from zero.
impl Writer<u32, String> for BySlot {
    fn put(&mut self, slot: &u32, owner: &String) -> Result<(), MapError> {
        self.clear(*slot)?;
        self.records.give(*slot, owner)
    }

    fn delete(&mut self, slot: &u32) -> Result<(), MapError> {
        self.records.take_away(*slot)
    }
}
