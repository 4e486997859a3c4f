//! Attaching to interfaces, by XDP or by TC.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp,
        tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
        xdp::{XdpLinkId, XdpMode},
    },
};
use rustix::io::Errno;
use serde::Serialize;
use tracing::debug;

use super::Error;
use crate::config::model::Lookup;

/// How to attach to interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Native XDP where the driver can, else TC.
    #[default]
    Auto,
    /// XDP in the driver, before the kernel has made an skb of the frame; an error where the driver cannot.
    Native,
    /// XDP in the kernel's receive path. Cannot send into every tunnel.
    Generic,
    /// TC: behind XDP, on every interface, super-packets whole.
    Tc,
}

/// How the program is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The name in status: `xdp-native`, `xdp-generic` or `tc`.
    pub mode: &'static str,
    /// Why it is not native XDP alone.
    pub reason: Option<String>,
}

impl Attached {
    pub fn is_native(&self) -> bool {
        self.mode == NATIVE
    }

    pub fn is_tc(&self) -> bool {
        self.mode == TC
    }
}

const NATIVE: &str = "xdp-native";
const GENERIC: &str = "xdp-generic";
const TC: &str = "tc";

const LOAD_ATTEMPTS: u32 = 5;

/// Before filters that name none.
const FILTER_PRIORITY: u16 = 1;

/// The kernel programs, one for each kind of hook.
pub struct Programs {
    ebpf: Ebpf,
    xdp: &'static str,
    tc: &'static str,
    /// The TC program is in the kernel: few hosts need it.
    tc_loaded: bool,
}

/// A program on an interface, until it is detached.
#[derive(Debug)]
pub enum Link {
    Xdp(XdpLinkId),
    Tc(SchedClassifierLinkId),
}

impl Programs {
    /// Loads the XDP program of an object.
    pub fn load(mut ebpf: Ebpf, lookup: Lookup) -> Result<Self, Error> {
        let (xdp, tc) = match lookup {
            Lookup::Compiled => ("vpnhub_xdp", "vpnhub_tc"),
            Lookup::Lpm => ("vpnhub_xdp_lpm", "vpnhub_tc_lpm"),
        };
        load(|| program::<Xdp>(&mut ebpf, xdp).load())?;
        Ok(Self { ebpf, xdp, tc, tc_loaded: false })
    }

    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub fn xdp(&mut self) -> &mut Xdp {
        program(&mut self.ebpf, self.xdp)
    }

    pub fn tc(&mut self) -> Result<&mut SchedClassifier, Error> {
        let program = program::<SchedClassifier>(&mut self.ebpf, self.tc);
        if !self.tc_loaded {
            load(|| program.load())?;
            self.tc_loaded = true;
        }
        Ok(program)
    }

    /// `reason` is why it is to be TC, where that is not what the operator asked for.
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: Mode,
        reason: Option<&str>,
    ) -> Result<(Link, Attached), Error> {
        let told = || Some(reason.unwrap_or("asked for").to_owned());
        let (mode, reason) = match mode {
            Mode::Auto | Mode::Native => match self.xdp().attach_to_if_index(ifindex, XdpMode::Driver) {
                Ok(link) => return Ok((Link::Xdp(link), Attached { mode: NATIVE, reason: None })),
                Err(error) if mode == Mode::Auto && errno(&error) != Some(Errno::BUSY) => {
                    (TC, Some(why_not_native(&error)))
                }
                Err(error) => return Err(Error::attach(&error)),
            },
            Mode::Generic => (GENERIC, told()),
            Mode::Tc => (TC, told()),
        };
        let link = if mode == TC {
            self.attach_tc(interface)?
        } else {
            let link = self.xdp().attach_to_if_index(ifindex, XdpMode::Skb);
            Link::Xdp(link.map_err(|error| Error::attach(&error))?)
        };
        Ok((link, Attached { mode, reason }))
    }

    /// By TCX, and where the kernel does not know that (before 6.6) as a filter of the queueing discipline `clsact`, which
    /// stays: others may use it by then.
    pub fn attach_tc(&mut self, interface: &str) -> Result<Link, Error> {
        let name = self.tc;
        let program = self.tc()?;
        let mut attach = |options| program.attach_with_options(interface, TcAttachType::Ingress, options).map(Link::Tc);
        match attach(TcAttachOptions::TcxOrder(LinkOrder::first())) {
            Err(error) if errno(&error) == Some(Errno::INVAL) => {}
            result => return result.map_err(|error| Error::attach(&error)),
        }
        // It may be there already, and so may the filter of an agent that was killed.
        let _ = qdisc_add_clsact(interface);
        let _ = qdisc_detach_program(interface, TcAttachType::Ingress, name);
        let filter = NlOptions { priority: FILTER_PRIORITY, ..NlOptions::default() };
        attach(TcAttachOptions::Netlink(filter)).map_err(|error| Error::attach(&error))
    }

    /// The interfaces may be gone.
    pub fn detach(&mut self, links: impl IntoIterator<Item = Link>) {
        for link in links {
            let result = match link {
                Link::Xdp(link) => self.xdp().detach(link),
                Link::Tc(link) => program::<SchedClassifier>(&mut self.ebpf, self.tc).detach(link),
            };
            if let Err(error) = result {
                debug!("not detached: {error}");
            }
        }
    }
}

/// The verifier gives up when a signal is pending, and is to be asked again then (`do_check`, `kernel/bpf/verifier.c`).
fn load(mut attempt: impl FnMut() -> Result<(), ProgramError>) -> Result<(), Error> {
    for _ in 1..LOAD_ATTEMPTS {
        match attempt() {
            Err(error) if errno(&error) == Some(Errno::AGAIN) => {}
            result => return result.map_err(Error::program),
        }
    }
    attempt().map_err(Error::program)
}

fn program<'a, P: 'a>(ebpf: &'a mut Ebpf, entry: &str) -> &'a mut P
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(entry).expect("the embedded object has it");
    program.try_into().ok().expect("it is of this kind")
}

fn why_not_native(error: &ProgramError) -> String {
    match errno(error) {
        Some(Errno::OPNOTSUPP) => "the driver has no native XDP".to_owned(),
        _ => format!(
            "the driver refuses native XDP, its MTU may be too large or its offloads in the way: {}",
            chain(error)
        ),
    }
}

/// The kernel's answer, somewhere among the causes.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let io = error.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
    io.or_else(|| error.source().and_then(errno))
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
