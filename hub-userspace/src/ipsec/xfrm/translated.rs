//! Policies that let the kernel accept packets with translated addresses.
//!
//! An SA's policies have the site's own addresses. Once the program has translated the source of a packet, the kernel
//! finds no policy for it and drops what it would forward or deliver itself (`__xfrm_policy_check`,
//! `net/xfrm/xfrm_policy.c`). These policies accept it by the interface id: only packets from the same tunnel. The
//! program has checked the selectors, and the nftables table accepts nothing else.

use std::{collections::BTreeSet, io, time::Duration};

use ipnet::IpNet;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use rustix::{
    io::Errno,
    net::sockopt::{self, Timeout},
};
use tracing::{info, warn};

use super::wire::{Direction, Dump, XfrmMessage, answers, own::OwnPolicy};
use crate::{config::Config, kernel::netlink::HostState};

/// The kernel fills its answers to dumps up to this size.
const LONGEST_ANSWER: usize = 32 << 10;

/// The prefixes at the hub by which sites behind xfrm interfaces are known, with the interface ids.
pub type TranslatedSources = BTreeSet<(u32, IpNet)>;

/// The translated sources of this configuration.
pub fn sources(config: &Config, host: &HostState) -> TranslatedSources {
    let translating = config.connections.values().filter(|connection| !connection.translate.is_empty());
    let of_interfaces = translating.filter_map(|connection| {
        let if_id = host.link(&connection.interface)?.if_id?;
        Some(connection.translate.iter().map(move |translation| (if_id, translation.hub)))
    });
    of_interfaces.flatten().collect()
}

/// The agent's policies in the kernel.
#[derive(Debug, Default)]
pub struct TranslatedPolicies {
    /// So that it is logged once.
    failure: Option<String>,
}

impl TranslatedPolicies {
    /// Adds the policies for these sources where they are missing, and removes all others that an agent has added, in
    /// the network namespace of the calling thread.
    pub fn set(&mut self, sources: &TranslatedSources) {
        let failure = replace(sources).err().filter(|error| {
            // Without CONFIG_XFRM_USER there are none.
            !sources.is_empty() || error.raw_os_error() != Some(Errno::PROTONOSUPPORT.raw_os_error())
        });
        let failure = failure.map(|error| error.to_string());
        if let Some(failure) = &failure
            && self.failure.as_ref() != Some(failure)
        {
            warn!(name: "ipsec_policy_failed", "the kernel may drop packets of translated sites that it would forward or deliver itself: {failure}");
        }
        self.failure = failure;
    }
}

/// Removes the policies of all agents.
///
/// # Errors
/// When the kernel cannot list or remove them.
pub fn remove_all() -> io::Result<usize> {
    match replace(&BTreeSet::new()) {
        Err(error) if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => Ok(0),
        removed => removed,
    }
}

/// Returns the number of removed policies.
fn replace(sources: &TranslatedSources) -> io::Result<usize> {
    let desired: BTreeSet<OwnPolicy> = sources
        .iter()
        .flat_map(|&(if_id, source)| {
            [Direction::In, Direction::Forward].map(|direction| OwnPolicy { direction, if_id, source })
        })
        .collect();
    let mut requests = Requests::open()?;
    let found = requests.list()?;
    let (mut added, mut removed) = (0, 0);
    for missing in desired.difference(&found) {
        added += usize::from(requests.change(|sequence| missing.add(sequence))?);
    }
    for other in found.difference(&desired) {
        removed += usize::from(requests.change(|sequence| other.delete(sequence))?);
    }
    if added + removed > 0 {
        info!(name: "ipsec_policies_changed", "IPsec policies for translated addresses: {added} added, {removed} removed");
    }
    Ok(removed)
}

/// The kernel answers these requests within the system call, so that a blocking socket does not wait. A lost answer must
/// not stop the agent.
const PATIENCE: Duration = Duration::from_secs(2);

struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_XFRM)?;
        socket.bind_auto()?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn list(&mut self) -> io::Result<BTreeSet<OwnPolicy>> {
        let mut found = BTreeSet::new();
        self.ask(|sequence| Dump::Policies.request(sequence).to_vec(), |own| _ = found.insert(own))?;
        Ok(found)
    }

    /// Returns whether it changed anything: the policy to add was missing, or the one to delete was there.
    fn change(&mut self, request: impl FnOnce(u32) -> Vec<u8>) -> io::Result<bool> {
        self.ask(request, |_| ())
    }

    /// Returns whether the kernel has done it.
    fn ask(&mut self, request: impl FnOnce(u32) -> Vec<u8>, mut take: impl FnMut(OwnPolicy)) -> io::Result<bool> {
        self.sequence += 1;
        self.socket.send_to(&request(self.sequence), &SocketAddr::new(0, 0), 0)?;
        let mut datagram = Vec::with_capacity(LONGEST_ANSWER);
        loop {
            datagram.clear();
            let (_, from) = self.socket.recv_from(&mut datagram, 0)?;
            // Other processes may send to this port.
            if from.port_number() != 0 {
                continue;
            }
            for (answer, _) in answers(&datagram, self.sequence) {
                match answer {
                    XfrmMessage::Own(own) => take(own),
                    XfrmMessage::Done | XfrmMessage::Error(0) => return Ok(true),
                    // No such policy, or none at all (net/xfrm/xfrm_user.c); or one for the same packets, ours or not.
                    XfrmMessage::Error(errno)
                        if [Errno::NOENT, Errno::EXIST].map(Errno::raw_os_error).contains(&errno) =>
                    {
                        return Ok(false);
                    }
                    XfrmMessage::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    XfrmMessage::Policy(_) | XfrmMessage::Sa(_) | XfrmMessage::Other => {}
                }
            }
        }
    }
}
