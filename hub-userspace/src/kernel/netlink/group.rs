//! Device groups (`IFLA_GROUP`, `net/core/rtnetlink.c`): an interface keeps its group when it is renamed.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};
use rustix::io::Errno;

use super::socket::Requests;

/// The device group of sites' interfaces. The same number as the routing protocol, chosen arbitrarily.
pub const SITES_GROUP: u32 = 118;

/// Moves interfaces without a group (0) into [`SITES_GROUP`], in the network namespace of the calling thread. An
/// interface in another group stays there: others rely on that group.
///
/// # Errors
/// When the kernel does not answer, or refuses. A removed interface is no error.
pub async fn put_into_group(ifindices: &BTreeSet<u32>) -> Result<()> {
    move_between_groups(0, SITES_GROUP, |ifindex| ifindices.contains(&ifindex)).await
}

/// Moves all other interfaces out of [`SITES_GROUP`].
///
/// # Errors
/// As [`put_into_group`].
pub async fn take_out_of_group(but: &BTreeSet<u32>) -> Result<()> {
    move_between_groups(SITES_GROUP, 0, |ifindex| !but.contains(&ifindex)).await
}

async fn move_between_groups(from: u32, to: u32, concerns: impl Fn(u32) -> bool) -> Result<()> {
    let mut requests = Requests::open()?;
    let mut all = LinkMessage::default();
    all.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let shown = requests.list("reading the interfaces", RouteNetlinkMessage::GetLink(all)).await?;
    let to_move = shown.iter().filter_map(|object| match object {
        RouteNetlinkMessage::NewLink(link) if concerns(link.header.index) && group(link) == from => {
            Some(link.header.index)
        }
        _ => None,
    });
    let messages = to_move.map(|ifindex| {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.attributes = vec![LinkAttribute::Group(to)];
        (RouteNetlinkMessage::SetLink(message), 0)
    });
    for result in requests.change("setting device groups", messages.collect()).await? {
        match result {
            Err(refusal) if !refusal.is(Errno::NODEV) => bail!("{refusal}"),
            _ => {}
        }
    }
    Ok(())
}

fn group(message: &LinkMessage) -> u32 {
    let group = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Group(group) => Some(*group),
        _ => None,
    });
    group.unwrap_or(0)
}
