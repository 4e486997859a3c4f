//! Attaches programs to interfaces by XDP and TC. Attachments outlive the agent: links are pinned, and the next agent
//! replaces the programs of these links.

use std::{io, os::fd::AsFd as _, thread};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, SchedClassifier, TcAttachType, Xdp},
};
use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{
    DatapathError,
    handover::Handover,
    links::{attach_link, attach_tcx},
    pins::{AttachmentKind, Pins},
    spread,
    tc::Direction,
};
use crate::config::model::LookupKind;

/// How to attach to interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native XDP where the driver supports it, with TC as backup; otherwise TC only.
    #[default]
    Auto,
    /// XDP in the driver, before the kernel allocates an skb, with TC as backup; an error without driver support.
    Native,
    /// XDP in the kernel's receive path, with TC as backup. Cannot send into every type of tunnel.
    Generic,
    /// TC only: works on every interface, and forwards GRO packets whole.
    Tc,
}

/// An interface, and how to attach to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToAttach {
    pub name: String,
    pub ifindex: u32,
    pub mode: AttachMode,
    /// Why it is TC only, if the operator did not request that.
    pub reason: Option<&'static str>,
    /// The interface has translations.
    pub translates: bool,
}

/// How the program is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The name in status: `xdp-native`, `xdp-generic` or `tc`.
    pub mode: &'static str,
    /// Why it is not native XDP.
    pub reason: Option<String>,
}

impl Attached {
    pub(super) fn native() -> Self {
        Self { mode: NATIVE, reason: None }
    }

    pub(super) fn generic(reason: String) -> Self {
        Self { mode: GENERIC, reason: Some(reason) }
    }

    pub fn is_tc(&self) -> bool {
        self.mode == TC
    }

    pub fn is_native(&self) -> bool {
        self.mode == NATIVE
    }
}

const NATIVE: &str = "xdp-native";
const GENERIC: &str = "xdp-generic";
const TC: &str = "tc";

const LOAD_ATTEMPTS: u32 = 5;
/// Name of the program at egress.
const EGRESS: &str = "vpnhub_egress";
/// Name of the program that distributes received ESP over CPUs.
const SPREAD: &str = "vpnhub_spread";

/// The kernel programs, one for each type of hook.
pub struct Programs {
    ebpf: Ebpf,
    xdp: &'static str,
    tc: &'static str,
    /// The TC program is loaded.
    tc_loaded: bool,
    /// The program at egress is loaded.
    egress_loaded: bool,
    /// The program that distributes received ESP over CPUs is loaded.
    spread_loaded: bool,
    /// The kernel has TCX (Linux 6.6), once it has been tried.
    pub(super) has_tcx: Option<bool>,
}

impl Programs {
    /// Loads the XDP program of an object.
    pub fn load(mut ebpf: Ebpf, lookup: LookupKind) -> Result<Self, DatapathError> {
        let (xdp, tc) = names(lookup);
        load(|| program::<Xdp>(&mut ebpf, xdp).load())?;
        Ok(Self { ebpf, xdp, tc, tc_loaded: false, egress_loaded: false, spread_loaded: false, has_tcx: None })
    }

    /// Loads both programs, on a thread each: the verifier takes most of the time of an agent's start.
    pub fn load_both(mut ebpf: Ebpf, lookup: LookupKind) -> Result<Self, DatapathError> {
        let names = names(lookup);
        let (mut xdp, mut tc) = (None, None);
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(program) if name == names.0 => xdp = Some(program),
                Program::SchedClassifier(program) if name == names.1 => tc = Some(program),
                _ => {}
            }
        }
        let (xdp, tc) = xdp.zip(tc).expect("the embedded object has both");
        thread::scope(|scope| {
            let xdp = scope.spawn(|| load(|| xdp.load()));
            let tc = load(|| tc.load());
            xdp.join().expect("loading does not panic").and(tc)
        })?;
        let (xdp, tc) = names;
        Ok(Self { ebpf, xdp, tc, tc_loaded: true, egress_loaded: false, spread_loaded: false, has_tcx: None })
    }

    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub fn xdp(&mut self) -> &mut Xdp {
        program(&mut self.ebpf, self.xdp)
    }

    pub fn tc(&mut self) -> Result<&mut SchedClassifier, DatapathError> {
        let program = program::<SchedClassifier>(&mut self.ebpf, self.tc);
        if !self.tc_loaded {
            load(|| program.load())?;
            self.tc_loaded = true;
        }
        Ok(program)
    }

    /// The program at egress, for interfaces with translations: few hubs need it.
    pub fn egress(&mut self) -> Result<&mut SchedClassifier, DatapathError> {
        let program = program::<SchedClassifier>(&mut self.ebpf, EGRESS);
        if !self.egress_loaded {
            load(|| program.load())?;
            self.egress_loaded = true;
        }
        Ok(program)
    }

    /// The program that distributes received ESP over CPUs: few hubs need it.
    pub(super) fn spread(&mut self) -> Result<&mut Xdp, DatapathError> {
        let program = program::<Xdp>(&mut self.ebpf, SPREAD);
        if !self.spread_loaded {
            load(|| program.load())?;
            self.spread_loaded = true;
        }
        Ok(program)
    }

    /// The TC program of a hook, loaded or not.
    pub(super) fn at_hook(&mut self, hook: TcAttachType) -> &mut SchedClassifier {
        let name = if hook == TcAttachType::Egress { EGRESS } else { self.tc };
        program(&mut self.ebpf, name)
    }

    /// Attaches to an interface, or replaces the programs of an earlier agent. The interface is never without a program
    /// meanwhile.
    ///
    /// TC first: it processes the packets that XDP passes.
    pub fn attach(
        &mut self,
        pins: &Pins,
        handover: &mut Handover,
        interface: &ToAttach,
    ) -> Result<Attached, DatapathError> {
        let &ToAttach { ref name, ifindex, mode, reason, translates } = interface;
        let had_tc = pins.has(AttachmentKind::Tcx, ifindex) || pins.has(AttachmentKind::Clsact, ifindex);
        self.attach_tc(pins, handover, (name, ifindex), Direction::Ingress)?;
        if translates {
            self.attach_tc(pins, handover, (name, ifindex), Direction::Egress)?;
        } else {
            self.detach_egress(pins, handover, ifindex)?;
        }
        let why = || Some(reason.unwrap_or("requested by --attach").to_owned());
        let (kind, other, flags) = match mode {
            AttachMode::Auto | AttachMode::Native => {
                (AttachmentKind::Native, AttachmentKind::Generic, XDP_FLAGS_DRV_MODE)
            }
            AttachMode::Generic => (AttachmentKind::Generic, AttachmentKind::Native, XDP_FLAGS_SKB_MODE),
            AttachMode::Tc => {
                detach_xdp(pins, ifindex);
                return Ok(Attached { mode: TC, reason: why() });
            }
        };
        // The interface no longer has `spread = "xdp"`.
        spread::detach(pins, ifindex);
        // An interface supports only one of both modes (`dev_xdp_attach()`, net/core/dev.c).
        if pins.has(other, ifindex) {
            pins.detach(other, ifindex);
        }
        match self.attach_xdp(pins, kind, ifindex, flags) {
            Ok(()) if kind == AttachmentKind::Native => Ok(Attached::native()),
            Ok(()) => Ok(Attached { mode: GENERIC, reason: why() }),
            Err(error) if mode == AttachMode::Auto => {
                detach_xdp(pins, ifindex);
                Ok(Attached { mode: TC, reason: Some(why_not_native(&error)) })
            }
            Err(error) => {
                if !had_tc {
                    detach(pins, handover, ifindex);
                }
                Err(DatapathError::attach(&error))
            }
        }
    }

    /// The interface has no translations any more.
    fn detach_egress(&mut self, pins: &Pins, handover: &mut Handover, ifindex: u32) -> Result<(), DatapathError> {
        if pins.has(AttachmentKind::Egress, ifindex) {
            handover.forget(ifindex, Direction::Egress);
            pins.detach(AttachmentKind::Egress, ifindex);
        }
        if pins.has(AttachmentKind::TcxEgress, ifindex) {
            // The program of an earlier agent would translate by its own tables until it is detached.
            let program = self.tc_program(Direction::Egress)?;
            attach_tcx(pins, Direction::Egress, ifindex, program.as_fd())
                .map_err(|error| DatapathError::attach(&error))?;
            handover.detach_later(ifindex, Direction::Egress, pins);
        }
        Ok(())
    }

    fn attach_xdp(&mut self, pins: &Pins, kind: AttachmentKind, ifindex: u32, flags: u32) -> io::Result<()> {
        let program = self.xdp().fd().map_err(io::Error::other)?.try_clone()?;
        attach_link(pins, kind, ifindex, program.as_fd(), bpf_attach_type::BPF_XDP, flags)
    }
}

/// Detaches from an interface, which may be gone. XDP first: TC still processes the packets meanwhile.
pub fn detach(pins: &Pins, handover: &Handover, ifindex: u32) {
    detach_xdp(pins, ifindex);
    for direction in Direction::ALL {
        detach_tc(pins, handover, ifindex, direction);
    }
}

fn detach_tc(pins: &Pins, handover: &Handover, ifindex: u32, direction: Direction) {
    handover.forget(ifindex, direction);
    for kind in [direction.link(), direction.filter()] {
        if pins.has(kind, ifindex) {
            pins.detach(kind, ifindex);
        }
    }
}

pub(super) fn detach_xdp(pins: &Pins, ifindex: u32) {
    for kind in [AttachmentKind::Native, AttachmentKind::Generic] {
        if pins.has(kind, ifindex) {
            pins.detach(kind, ifindex);
        }
    }
}

/// Names of the XDP and the TC program.
pub(super) fn names(lookup: LookupKind) -> (&'static str, &'static str) {
    match lookup {
        LookupKind::Compiled => ("vpnhub_xdp", "vpnhub_tc"),
        LookupKind::Lpm => ("vpnhub_xdp_lpm", "vpnhub_tc_lpm"),
    }
}

/// The verifier aborts with `EAGAIN` when a signal is pending; the load must be retried (`do_check`,
/// `kernel/bpf/verifier.c`).
fn load(mut attempt: impl FnMut() -> Result<(), ProgramError>) -> Result<(), DatapathError> {
    for _ in 1..LOAD_ATTEMPTS {
        match attempt() {
            Err(error) if errno(&error) == Some(Errno::AGAIN) => {}
            result => return result.map_err(DatapathError::program),
        }
    }
    attempt().map_err(DatapathError::program)
}

fn program<'a, P: 'a>(ebpf: &'a mut Ebpf, entry: &str) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(entry).expect("the embedded object has it");
    program.try_into().ok().expect("it is of this kind")
}

pub(super) fn why_not_native(error: &io::Error) -> String {
    match errno(error) {
        Some(Errno::BUSY | Errno::EXIST) => {
            "another XDP program is attached to the interface, so the TC program forwards its packets: for native XDP \
             detach it, for example with `ip link set dev NAME xdp off`"
                .to_owned()
        }
        Some(Errno::OPNOTSUPP) => "the driver has no native XDP".to_owned(),
        _ => format!("the driver refuses native XDP, because of the MTU or an offload for example: {}", chain(error)),
    }
}

/// The first error number in the chain of causes.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let io = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
    io.or_else(|| error.source().and_then(errno))
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
