//! Attaching to interfaces.

use aya::programs::{
    ProgramError, Xdp,
    xdp::{XdpLinkId, XdpMode},
};
use rustix::io::Errno;
use serde::Serialize;

use super::Error;

/// Which XDP mode to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// In the driver, before the kernel has made an skb of the frame; an error where the driver cannot.
    Native,
    /// In the kernel's receive path, on every interface; slower.
    Generic,
}

/// How the program is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// The name in status: `xdp-native` or `xdp-generic`.
    pub mode: &'static str,
    /// Why it is not native.
    pub reason: Option<String>,
}

impl Attached {
    pub fn is_native(&self) -> bool {
        self.mode == NATIVE
    }
}

const NATIVE: &str = "xdp-native";
const GENERIC: &str = "xdp-generic";

/// `reason` is why it is to be generic, where that is not what the operator asked for.
pub fn attach(
    program: &mut Xdp,
    ifindex: u32,
    mode: Mode,
    reason: Option<&str>,
) -> Result<(XdpLinkId, Attached), Error> {
    let reason = match mode {
        Mode::Generic => Some(reason.unwrap_or("asked for").to_owned()),
        Mode::Auto | Mode::Native => match program.attach_to_if_index(ifindex, XdpMode::Driver) {
            Ok(link) => {
                return Ok((link, Attached { mode: NATIVE, reason: None }));
            }
            Err(error) if mode == Mode::Auto && errno(&error) != Some(Errno::BUSY) => Some(why_not_native(&error)),
            Err(error) => return Err(Error::attach(&error)),
        },
    };
    let link = program.attach_to_if_index(ifindex, XdpMode::Skb).map_err(|error| Error::attach(&error))?;
    Ok((link, Attached { mode: GENERIC, reason }))
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
