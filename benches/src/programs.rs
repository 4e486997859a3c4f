//! The kernel programs: loaded, attached, their maps.

use std::io;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, DevMap, MapData, PerCpuArray},
    programs::{ProgramError, Xdp, XdpMode, xdp::XdpLinkId},
    sys::SyscallError,
};
use hub_tests::lab::Namespace;

use crate::{
    netdev::Netdev,
    shape::{ARRIVALS, Arrival, Counts, FAN, PORTS, Settings},
};

// SAFETY: integers and arrays of them, without padding: the size is asserted beside the type.
unsafe impl aya::Pod for Settings {}
// SAFETY: two integers of the same size.
unsafe impl aya::Pod for Counts {}
// SAFETY: integers without padding: the size is asserted beside the type.
unsafe impl aya::Pod for Arrival {}

impl Counts {
    pub fn total(&self) -> u64 {
        self.good + self.garbled
    }

    /// Counts since `before`.
    pub fn since(&self, before: Self) -> Self {
        Self { good: self.good - before.good, garbled: self.garbled - before.garbled }
    }
}

/// Size of `struct xdp_md` (linux/bpf.h), and offsets of the fields that a test run reads.
const CONTEXT: usize = 24;
const CONTEXT_DATA_END: usize = 4;
const CONTEXT_INTERFACE: usize = 12;

/// The programs and their maps. Dropping it detaches its programs.
pub struct Programs(Ebpf);

impl Programs {
    pub fn load() -> Result<Self> {
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-ebpf"));
        Ebpf::load(object).map(Self).context("loading the kernel programs: root (CAP_BPF, CAP_NET_ADMIN) is needed")
    }

    /// Attaches `program` natively, until it is detached or this value dropped.
    ///
    /// # Errors
    /// When the device has a program already, or no native XDP.
    pub fn attach(&mut self, program: &str, netdev: &Netdev) -> Result<XdpLinkId> {
        let program = loaded(&mut self.0, program)?;
        let Netdev { namespace, device, index } = netdev;
        let attached = namespace.enter(|| program.attach_to_if_index(*index, XdpMode::Driver))?;
        let at = format!("{device} in {}", namespace.name());
        match attached {
            Ok(link) => Ok(link),
            Err(ProgramError::SyscallError(SyscallError { io_error, .. })) => match io_error.kind() {
                io::ErrorKind::ResourceBusy => bail!(
                    "{at} has an XDP program already: `ip -n {} link show {device}` shows it, and its owner must detach it",
                    namespace.name()
                ),
                io::ErrorKind::Unsupported => {
                    bail!("{at} has no native XDP: the bench needs veth or a driver that has")
                }
                _ => Err(anyhow!(io_error).context(format!(
                    "attaching to {at} natively (a veth refuses while the MTU of its peer is over about 3500)"
                ))),
            },
            Err(error) => Err(anyhow!(error).context(format!("attaching to {at}"))),
        }
    }

    pub fn detach(&mut self, program: &str, link: XdpLinkId) -> Result<()> {
        loaded(&mut self.0, program)?.detach(link).with_context(|| format!("detaching {program}"))
    }

    /// Makes `netdev` the port of program `bare`, and the one that `fib` takes for its interface.
    pub fn set_port(&mut self, netdev: &Netdev) -> Result<()> {
        ensure!((1..PORTS).contains(&netdev.index), "{} has the index {}, over {PORTS}", netdev.device, netdev.index);
        let map = self.0.map_mut("PORTS").context("no map PORTS")?;
        let mut ports: DevMap<_> = map.try_into()?;
        // A port is looked up in the namespace of the thread that names it.
        let mut set =
            || ports.set(0, netdev.index, None, 0).and_then(|()| ports.set(netdev.index, netdev.index, None, 0));
        netdev.namespace.enter(&mut set)?.context("setting the port")
    }

    /// Sets the devices of a namespace over which `fan` spreads its flows: [`FAN`] at most.
    pub fn set_fan(&mut self, namespace: &Namespace, indices: &[u32]) -> Result<()> {
        ensure!((1..=FAN as usize).contains(&indices.len()), "{} devices: 1 to {FAN} are possible", indices.len());
        let map = self.0.map_mut("FAN").context("no map FAN")?;
        let mut fan: DevMap<_> = map.try_into()?;
        let set = || (0..FAN).zip(indices.iter().cycle()).try_for_each(|(slot, to)| fan.set(slot, *to, None, 0));
        namespace.enter(set)?.context("setting the ways out")
    }

    pub fn set(&mut self, settings: &Settings) -> Result<()> {
        let map = self.0.map_mut("SETTINGS").context("no map SETTINGS")?;
        let mut array: Array<_, Settings> = map.try_into()?;
        array.set(0, settings, 0).context("writing the settings")
    }

    /// Frames that the generator has made since it was loaded, on whatever CPU.
    pub fn made(&self) -> Result<u64> {
        let array: PerCpuArray<_, u64> = self.0.map("SEQUENCE").context("no map SEQUENCE")?.try_into()?;
        Ok(array.get(&0, 0).context("reading SEQUENCE")?.iter().sum())
    }

    /// Frames that the sink of a tunnel has seen since it was loaded. A plain sink is that of tunnel 0.
    pub fn counts(&self, tunnel: u32) -> Result<Counts> {
        let array: PerCpuArray<_, Counts> = self.0.map("COUNTS").context("no map COUNTS")?.try_into()?;
        let values = array.get(&tunnel, 0).context("reading COUNTS")?;
        let sum = |field: fn(&Counts) -> u64| values.iter().map(field).sum();
        Ok(Counts { good: sum(|counts| counts.good), garbled: sum(|counts| counts.garbled) })
    }

    /// Where and when the last frames came out.
    pub fn record(&self) -> Result<Record<'_>> {
        Ok(Record(self.0.map("RECORD").context("no map RECORD")?.try_into()?))
    }

    /// The switch that makes far ends fall silent. There is one: it is taken out.
    pub fn mute(&mut self) -> Result<Mute> {
        Ok(Mute(self.0.take_map("MUTED").context("no map MUTED")?.try_into()?))
    }

    /// Lets the generator go on though frames are missing that it waits for. Only between test runs.
    ///
    /// `made` is how many it has made.
    pub fn forget_missing(&mut self, made: u64) -> Result<()> {
        let mut array: Array<_, u32> = self.0.map_mut("ARRIVED").context("no map ARRIVED")?.try_into()?;
        // Frames are numbered from 0, in 32 bits.
        array.set(0, u32::try_from(made % (1 << 32))?, 0).context("writing ARRIVED")
    }

    /// All of them, for those who have programs of their own among them.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.0
    }

    /// The generator, loaded when it was not yet.
    pub fn generator(&mut self) -> Result<&mut Xdp> {
        loaded(&mut self.0, "generator")
    }

    /// A program that has been loaded.
    pub fn loaded(&self, name: &str) -> Result<&Xdp> {
        Ok(self.0.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }
}

pub struct Record<'a>(Array<&'a MapData, Arrival>);

impl Record<'_> {
    /// When and where frame `number` came out; `None` when it has not, or too many have since.
    pub fn arrival(&self, number: u64) -> Result<Option<Arrival>> {
        // The low 32 bits identify a frame.
        let number = number as u32;
        let arrival = self.0.get(&(number % ARRIVALS), 0).context("reading RECORD")?;
        Ok(Some(arrival).filter(|arrival| arrival.time != 0 && arrival.number == number))
    }
}

/// Makes the far end of a tunnel take everything and answer nothing, while its link stays up.
pub struct Mute(Array<MapData, u32>);

impl Mute {
    pub fn set(&mut self, tunnel: u32, muted: bool) -> Result<()> {
        let before = self.0.get(&0, 0).context("reading MUTED")?;
        let bit = 1 << tunnel;
        self.0.set(0, if muted { before | bit } else { before & !bit }, 0).context("writing MUTED")
    }
}

/// Makes the generator send `frames` frames of the size of `frame` out of the device `index`, which is in
/// this thread's namespace. `batch` of them are under way before the kernel works at anything else.
///
/// # Errors
/// `Interrupted` when a signal came; fewer have been made then.
pub fn send(generator: &Xdp, frame: &[u8], index: u32, frames: u32, batch: u32) -> Result<(), ProgramError> {
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context(frame, index)),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(batch),
        ..TestRunOptions::default()
    };
    generator.test_run(options).map(drop)
}

/// Context of a test run: the ingress interface is the device `index` of this thread's namespace.
pub fn context(frame: &[u8], index: u32) -> [u8; CONTEXT] {
    let mut context = [0; CONTEXT];
    let length = u32::try_from(frame.len()).expect("a frame is short");
    context[CONTEXT_DATA_END..][..4].copy_from_slice(&length.to_ne_bytes());
    context[CONTEXT_INTERFACE..][..4].copy_from_slice(&index.to_ne_bytes());
    context
}

/// The program of this name, in the kernel.
pub fn loaded<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("loading {name}: root (CAP_BPF, CAP_NET_ADMIN) is needed"))?;
    }
    Ok(program)
}
