//! Neighbours that the kernel must probe. They use a separate socket, so that they do not wait for routes.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Result, bail};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::RouteNetlinkMessage,
};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::{GONE, NEIGHBOUR_TABLE_FULL};
use crate::kernel::netlink::{socket::Requests, wire};

/// Maximum processed at once. The same neighbour is often requested several times.
const BURST: usize = 1024;

pub async fn run(mut requests: Requests, mut asked: mpsc::UnboundedReceiver<(u32, IpAddr)>) {
    let mut burst = Vec::new();
    while asked.recv_many(&mut burst, BURST).await > 0 {
        for (ifindex, address) in burst.drain(..).collect::<BTreeSet<_>>() {
            if let Err(error) = probe(&mut requests, ifindex, address).await {
                tracing::warn!(name: "neighbour_not_resolved", interface = ifindex, %address, "neighbour not resolved: {error:#}");
            }
        }
    }
}

async fn probe(requests: &mut Requests, ifindex: u32, address: IpAddr) -> Result<()> {
    let request = RouteNetlinkMessage::GetNeighbour(wire::bare_neighbour((ifindex, address)));
    let message = match requests.get("looking up a neighbour", request).await? {
        Ok(RouteNetlinkMessage::NewNeighbour(shown)) => wire::neighbour_use(&shown),
        Ok(_) => None,
        Err(refusal) if GONE.iter().any(|errno| refusal.is(*errno)) => {
            wire::neighbour_use(&wire::bare_neighbour((ifindex, address)))
        }
        Err(refusal) => bail!("{refusal}"),
    };
    let Some(message) = message else { return Ok(()) };
    let change = (RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE | NLM_F_CREATE);
    match requests.change("resolving a neighbour", vec![change]).await?.pop() {
        Some(Err(refusal)) if refusal.is(Errno::NOBUFS) => bail!(NEIGHBOUR_TABLE_FULL),
        Some(Err(refusal)) if !GONE.iter().any(|errno| refusal.is(*errno)) => bail!("{refusal}"),
        _ => Ok(()),
    }
}
