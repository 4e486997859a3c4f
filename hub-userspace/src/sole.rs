//! One agent in a network namespace: two would undo each other's routes and rules, whatever their sockets are.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use anyhow::{Context as _, Result, bail};

/// An abstract socket address: names of these belong to a network namespace, and the kernel frees them with the process,
/// however it ends (unix(7)).
const NAME: &[u8] = b"vpnhub/agent";

/// The right to be the agent of this network namespace, until dropped.
pub struct Sole(#[expect(dead_code, reason = "held for its name alone")] UnixDatagram);

impl Sole {
    /// Takes the right, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When another agent has it.
    pub fn claim() -> Result<Self> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Ok(Self(socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "another agent runs in this network namespace, and two would undo each other's routes: stop it first"
            ),
            Err(error) => Err(error).context("cannot tell whether another agent runs in this network namespace"),
        }
    }
}
