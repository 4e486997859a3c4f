//! The programs at TC, and the one in the transmit function of a TUN device.

use std::{
    mem::ManuallyDrop,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    maps::Array,
    programs::{
        Link as _, SchedClassifier, SocketFilter, TcAttachType,
        tc::{self, SchedClassifierLink},
    },
};
use hub_tests::lab::Tun;
use nix::{errno::Errno, libc};

use crate::{netdev::Netdev, programs::Programs};

/// Not dropped: without TCX that would remove the filter of the same number in the namespace of this process.
pub type TcLink = ManuallyDrop<SchedClassifierLink>;

impl Programs {
    /// Attaches `program` to the ingress of a device at TC, until [`detach_tc`] or the device goes.
    pub fn attach_tc(&mut self, program: &str, netdev: &Netdev) -> Result<TcLink> {
        let program = classifier(self, program)?;
        let mut attach = || program.attach(&netdev.device, TcAttachType::Ingress);
        let attached = netdev.namespace.enter(|| {
            // Linux before 6.6 requires a clsact on the device.
            attach().or_else(|error| if tc::qdisc_add_clsact(&netdev.device).is_ok() { attach() } else { Err(error) })
        })?;
        let at = || format!("attaching to {} in {} at TC", netdev.device, netdev.namespace.name());
        // Not kept by the program, which knows a link without TCX by its numbers: they are the same in each namespace.
        attached
            .and_then(|link| program.take_link(link))
            .map(ManuallyDrop::new)
            .map_err(|error| anyhow!(error).context(at()))
    }

    /// Sets the device that programs at TC send to: `DEVICE_OUT` or `DEVICE_IN`.
    pub fn set_device(&mut self, which: u32, netdev: &Netdev) -> Result<()> {
        let map = self.object().map_mut("DEVICES").context("no map DEVICES")?;
        let mut devices: Array<_, u32> = map.try_into()?;
        devices.set(which, netdev.index, 0).context("writing DEVICES")
    }

    /// Makes the sink the filter of a TUN device: of all that is sent to it, until the device goes.
    pub fn attach_to_tun(&mut self, tun: &Tun) -> Result<()> {
        let program = self.object().program_mut("raw_sink").context("no program raw_sink")?;
        let sink: &mut SocketFilter = program.try_into()?;
        if sink.fd().is_err() {
            sink.load().context("loading raw_sink")?;
        }
        let filter = sink.fd()?.as_fd().as_raw_fd();
        // SAFETY: TUNSETFILTEREBPF reads an int, which outlives the call. The kernel takes a reference to the program.
        let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETFILTEREBPF, &raw const filter) };
        Errno::result(result).map(drop).context("setting the filter of a TUN device")
    }
}

/// Detaches a program from the device that it was attached to, and removes the clsact: the kernel runs it for each packet,
/// also without programs.
pub fn detach_tc(link: TcLink, netdev: &Netdev) -> Result<()> {
    // Without TCX a filter is removed by a message, in the device's namespace.
    netdev
        .namespace
        .enter(|| ManuallyDrop::into_inner(link).detach())?
        .with_context(|| format!("detaching from {}", netdev.device))?;
    // There is none with TCX.
    drop(netdev.namespace.command("tc").args(["qdisc", "del", "dev", &netdev.device, "clsact"]).output());
    Ok(())
}

fn classifier<'a>(programs: &'a mut Programs, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = programs.object().program_mut(name).with_context(|| format!("no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("loading {name}: root (CAP_BPF, CAP_NET_ADMIN) is needed"))?;
    }
    Ok(program)
}
