//! ESP in the kernel.

use crate::Case;

pub const CASES: &[Case] = &[];
