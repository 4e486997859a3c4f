//! The maps: the binary fills and reads them.

use aya_ebpf::{
    macros::map,
    maps::{Array, DevMap, PerCpuArray},
};

use crate::{
    expect::{CLASSES, Expect, Tally},
    shape::{ARRIVALS, Arrival, Counts, DEVICE_IN, FAN as FAN_COUNT, PORTS as PORTS_COUNT, Settings, TUNNELS},
};

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The number of the next frame, which is how many the generator has made on this CPU.
#[map]
pub static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The number after that of the frame that the sink saw last. One for all CPUs: it is what the generator waits for.
#[map]
pub static ARRIVED: Array<u32> = Array::with_max_entries(1, 0);

/// By tunnel; a plain sink is tunnel 0.
#[map]
pub static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(TUNNELS, 0);

/// When and where the last frames came out: see [`Arrival`].
#[map]
pub static RECORD: Array<Arrival> = Array::with_max_entries(ARRIVALS, 0);

/// A bit for each tunnel: set, its far end takes everything and answers nothing.
#[map]
pub static MUTED: Array<u32> = Array::with_max_entries(1, 0);

/// Where `bare` sends everything: port 0. `fib` takes the port with the number of the interface that the kernel names.
#[map]
pub static PORTS: DevMap = DevMap::with_max_entries(PORTS_COUNT, 0);

/// Interface indices for the programs at TC: see [`DEVICE_OUT`](crate::shape::DEVICE_OUT).
#[map]
pub static DEVICES: Array<u32> = Array::with_max_entries(DEVICE_IN + 1, 0);

/// Where `fan` sends flows, all of it filled: a device several times where there are fewer.
#[map]
pub static FAN: DevMap = DevMap::with_max_entries(FAN_COUNT, 0);

/// For pktgen's frames: the expected form, the counts, and the latencies (see [`CLASSES`]).
#[map]
pub static EXPECT: Array<Expect> = Array::with_max_entries(1, 0);
#[map]
pub static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static LATENCY: PerCpuArray<u64> = PerCpuArray::with_max_entries(CLASSES, 0);
