//! The ladder for the bench `lookup`: programs of the hub's own stages, each with one stage more. They run in repeated
//! test runs.
//!
//! The order of the stages is that of `hub-ebpf/src/main.rs`. The bench replaces the hub's maps by those of a running
//! agent.
#![no_std]
#![no_main]

mod maps;
#[path = "../stages.rs"]
mod stages;

use core::hint::black_box;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use benches_ebpf::{
    frame,
    shape::{IPV4, IPV6, IPV6_NETWORKS},
};
use hub_common::{
    Reason,
    class_trie::Class,
    maps::{Attachment, UNATTRIBUTED},
};
use hub_ebpf::{
    Family,
    counters::{self, Attribution},
    family::{V4, V6},
    frame::{Frame, XdpFrame},
    lookup::{ClassTrie, LpmTries, ResolvedPair, Tables},
    nexthop,
    parse::{self, Network, Start},
    policy::selector,
    redirect,
    refusal::Refusal,
    rewrite, route,
};

use crate::stages::Stage;

/// Return code of a program that has completed its last stage. A stage that rejects the packet returns drop or pass.
const REACHED: u32 = xdp_action::XDP_TX;

macro_rules! programs {
    ($($name:ident: $tables:ty, $stage:ident;)+) => {
        $(
            #[xdp]
            pub fn $name(context: XdpContext) -> u32 {
                climb::<$tables>(context, Stage::$stage)
            }
        )+
    };
}

programs! {
    drop: ClassTrie, Drop;
    bare: ClassTrie, Bare;
    hub_parse: ClassTrie, Parse;
    hub_addresses: ClassTrie, Addresses;
    hub_to_hub: ClassTrie, ToHub;
    hub_selector: ClassTrie, Selector;
    hub_route: ClassTrie, Route;
    hub_nexthop: ClassTrie, NextHop;
    hub_rewrite: ClassTrie, Rewrite;
    hub_redirect: ClassTrie, Redirect;
    lpm_parse: LpmTries, Parse;
    lpm_addresses: LpmTries, Addresses;
    lpm_to_hub: LpmTries, ToHub;
    lpm_selector: LpmTries, Selector;
    lpm_route: LpmTries, Route;
    lpm_nexthop: LpmTries, NextHop;
    lpm_rewrite: LpmTries, Rewrite;
    lpm_redirect: LpmTries, Redirect;
}

/// A look-up of both families, with [`Glance`] at their resolved addresses.
trait Both: Tables<V4, Resolved: Glance> + Tables<V6, Resolved: Glance> {}
impl<T: Tables<V4, Resolved: Glance> + Tables<V6, Resolved: Glance>> Both for T {}

/// Body of every program; the last stage is a constant.
#[inline(always)]
fn climb<T: Both>(mut context: XdpContext, stage: Stage) -> u32 {
    if put_back(&mut context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    match stage {
        Stage::Drop => REACHED,
        Stage::Bare => maps::FLOOR.redirect(0, u64::from(xdp_action::XDP_ABORTED)).unwrap_or(xdp_action::XDP_ABORTED),
        _ => forward::<T, _>(&mut XdpFrame::new(context), stage),
    }
}

/// Writes the next frame. A repeated test run passes the program the frame as the previous run has left it: its TTL
/// would run out.
#[inline(always)]
fn put_back(context: &mut XdpContext) -> Option<()> {
    let settings = maps::SETTINGS.get(0)?;
    let sequence = maps::SEQUENCE.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own, and one test run at a time uses it.
    let sequence = unsafe { &mut *sequence };
    let number = *sequence as u32;
    *sequence += 1;
    match settings.version {
        4 => frame::write::<{ IPV4.words }>(context, settings, &IPV4, number),
        _ if settings.networks == 0 => frame::write::<{ IPV6.words }>(context, settings, &IPV6, number),
        _ => frame::write::<{ IPV6.words }>(context, settings, &IPV6_NETWORKS, number),
    }
}

#[inline(always)]
fn forward<T: Both, F: Frame>(frame: &mut F, stage: Stage) -> u32 {
    let Some(attachment) = parse::attachment(frame.interface()) else {
        return counters::finish(frame, &Attribution::new(UNATTRIBUTED), &Reason::NotAttached.into());
    };
    let attribution = Attribution::new(attachment.connection);
    let outcome = match parse::link(frame, &attachment) {
        Ok(Network::Ipv4(start)) => stages::<V4, T, F>(frame, start, &attachment, &attribution, stage),
        Ok(Network::Ipv6(start)) => stages::<V6, T, F>(frame, start, &attachment, &attribution, stage),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(action) => action,
        Err(refusal) => counters::finish(frame, &attribution, &refusal),
    }
}

#[inline(always)]
fn stages<A: Family + Glance, T: Tables<A, Resolved: Glance>, F: Frame>(
    frame: &mut F,
    start: Start,
    attachment: &Attachment,
    attribution: &Attribution,
    stage: Stage,
) -> Result<u32, Refusal> {
    let packet = parse::packet::<A, F>(frame, start)?;
    if stage == Stage::Parse {
        let found = packet.source.glance() ^ packet.destination.glance();
        return Ok(reached(found ^ packet.length as u32 ^ u32::from(packet.hop_limit)));
    }
    let pair = ResolvedPair::<A, T>::of(&packet)?;
    if stage == Stage::Addresses {
        return Ok(reached(pair.source.glance() ^ pair.destination.glance()));
    }
    let reach = parse::reach(&packet, start)?;
    let route = route::lookup(&pair, pair.destination);
    if stage == Stage::ToHub {
        return Ok(reached(route.first_bucket()));
    }
    let segment = selector::ingress(&packet, reach, frame, &pair, route, attachment, attribution)?;
    attribution.set_bytes(packet.length);
    if stage == Stage::Selector {
        return Ok(reached(attribution.connection()));
    }
    let route = route::check::<F>(route, attachment, attribution)?;
    if stage == Stage::Route {
        return Ok(reached(route.first_bucket()));
    }
    let next_hop = nexthop::choose(&packet, frame, &pair, segment, route, attribution)?;
    if stage == Stage::NextHop {
        return Ok(reached(next_hop.port));
    }
    rewrite::rewrite(frame, &packet, attribution, next_hop)?;
    if stage == Stage::Rewrite {
        return Ok(reached(next_hop.port));
    }
    redirect::redirect(frame, attribution, next_hop)
}

/// Ends a program with the result of its last stage. Without the use of the result the compiler would remove the work.
#[inline(always)]
fn reached(found: u32) -> u32 {
    black_box(found);
    REACHED
}

/// A little of a value, for which all of it had to be found.
trait Glance {
    fn glance(&self) -> u32;
}

impl Glance for V4 {
    #[inline(always)]
    fn glance(&self) -> u32 {
        *self
    }
}

impl Glance for V6 {
    #[inline(always)]
    fn glance(&self) -> u32 {
        (self[0] ^ self[1]) as u32
    }
}

impl Glance for &'static Class {
    #[inline(always)]
    fn glance(&self) -> u32 {
        self.first_bucket
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses loops without end: a program that could panic would not load.
    loop {}
}

// The kernel lends some helpers to GPL-compatible programs only (include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
