//! Receives: counts the generator's frames, and checks each of them.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::{
    frame, maps,
    shape::{Head, IPV4, IPV6, Layout, Settings},
};

/// On the far device. Takes the generator's frames and leaves all others to the kernel.
#[xdp]
pub fn sink(mut context: XdpContext) -> u32 {
    let Some(settings) = maps::SETTINGS.get(0) else {
        return xdp_action::XDP_PASS;
    };
    let good = match settings.version {
        4 => check::<{ IPV4.words }>(&mut context, settings, &IPV4),
        _ => check::<{ IPV6.words }>(&mut context, settings, &IPV6),
    };
    let (Some(good), Some(counts)) = (good, maps::COUNTS.get_ptr_mut(0)) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the element is this CPU's own, and XDP programs do not interrupt one another on a CPU.
    let counts = unsafe { &mut *counts };
    if good {
        counts.good += 1;
    } else {
        counts.garbled += 1;
    }
    xdp_action::XDP_DROP
}

/// Whether the frame is what must come out for its number: length, MAC of this device, addresses, TTL, ports,
/// checksums. `None` when it is not the generator's.
#[inline(always)]
fn check<const WORDS: usize>(context: &mut XdpContext, settings: &Settings, layout: &Layout) -> Option<bool> {
    let length = frame::length(context);
    let head = &*frame::head::<WORDS>(context)?;
    let number = layout.generated(head)?;
    if let Some(arrived) = maps::ARRIVED.get_ptr_mut(0) {
        // SAFETY: a whole word at its own address. CPUs may overwrite each other's: either is as good an answer.
        unsafe { arrived.write_volatile(number.wrapping_add(1)) };
    }
    let mut expected: Head<WORDS> = settings.arrives.first();
    layout.number(&mut expected, settings, number);
    let mut difference = 0;
    // Without a branch between the words: nearly every frame is good.
    for word in 0..WORDS {
        difference |= (head.0[word] ^ expected.0[word]) & settings.checked.0[word];
    }
    Some(difference == 0 && length == settings.length as usize && layout.header_sum_verifies(head))
}
