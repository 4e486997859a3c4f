//! The error type of the stages.

use core::ptr;

use hub_common::Reason;

/// Ends the processing of a packet. `?` makes it of a [`Reason`].
///
/// The reason goes through memory, so that its number is a constant only where a check has failed. Otherwise the
/// compiler sets the number in advance, before every check, and keeps a register for it.
pub struct Refusal(u32);

impl Refusal {
    /// The reason's number, index of its counter. The verifier does not know its bounds.
    #[inline(always)]
    pub fn number(&self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub fn is_drop(&self) -> bool {
        Reason::is_drop_number(self.0)
    }
}

impl From<Reason> for Refusal {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        let number = reason as u32;
        // SAFETY: a value on the stack. Volatile: see above.
        Self(unsafe { ptr::read_volatile(&raw const number) })
    }
}
