//! Stage 2: the policy check. XDP runs before the kernel's xfrm policies, so nobody else asks.
//!
//! A selector is a pair of prefixes: `remote`, the site's side, and `local`, the hub's side and all behind it. A trie
//! finds the longest remote prefix of a scope; its policy is the set of local prefixes that any pair with a remote
//! around that address has, so that one look-up in it answers for all pairs at once.

use aya_ebpf::maps::lpm_trie::Key;
use hub_common::{
    Reason,
    maps::{ANY_LOCAL, Attachment, Remote, SCOPE_BITS, Scoped},
};

use crate::{address::Address, parse::Packet};

/// Tells which connection of the attachment sent the packet, if any may send it.
///
/// `connection` is left as it was when no selector knows the source.
#[inline(always)]
pub fn ingress<A: Address>(packet: &Packet<A>, attachment: &Attachment, connection: &mut u32) -> Result<(), Reason> {
    if packet.source.is_nobody() {
        return Err(Reason::SpoofedSource);
    }
    let remote = remote(attachment.scope, packet.source).ok_or(Reason::SpoofedSource)?;
    *connection = remote.connection;
    *connection = paired(remote, packet.destination).ok_or(Reason::SelectorMismatch)?;
    Ok(())
}

/// The egress connection's own selectors, in whose scope the addresses stand the other way round.
#[inline(always)]
pub fn egress<A: Address>(packet: &Packet<A>, scope: u32) -> Result<(), Reason> {
    match remote(scope, packet.destination) {
        Some(remote) if paired(remote, packet.source).is_some() => Ok(()),
        _ => Err(Reason::SelectorMismatch),
    }
}

#[inline(always)]
fn remote<A: Address>(scope: u32, address: A) -> Option<&'static Remote> {
    A::remotes().get(Key::new(SCOPE_BITS + A::BITS, Scoped::new(scope, address)))
}

/// The connection of the pair that admits both ends.
#[inline(always)]
fn paired<A: Address>(remote: &Remote, local: A) -> Option<u32> {
    if remote.policy == ANY_LOCAL {
        return Some(remote.connection);
    }
    A::locals().get(Key::new(SCOPE_BITS + A::BITS, Scoped::new(remote.policy, local))).copied()
}
