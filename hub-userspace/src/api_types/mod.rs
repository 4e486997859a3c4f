//! The JSON contract of the control socket: fields may be added, never changed.

pub mod diagnose;
pub mod event;
pub mod packet;
pub mod problem;
pub mod status;
pub mod trace;
