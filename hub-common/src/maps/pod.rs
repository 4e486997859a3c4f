//! [`aya::Pod`] for the agent's side.

use super::{
    Attachment, CaptureFilter, CaptureLimit, CaptureSwitch, ConnectionRecord, GroupMember, GroupRecord, LinkAddress,
    Local, MssLimits, Neighbour, NextHop, PolicyPair, PolicySlot, Refusals, Remote, Route, Rule, Scoped, Traffic,
    Translations, Vlan,
};
use crate::Mark;

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: `repr(C)`, made of integers and byte arrays only, no padding (sizes are asserted): every byte is
        // initialised and every bit pattern is a value.
        $(unsafe impl aya::Pod for $type {})+
    };
}

pod!(Attachment, Scoped<[u8; 4]>, Scoped<[u8; 16]>, Remote, Local, Rule, Route, NextHop, Neighbour, LinkAddress);
pod!(
    Mark,
    Vlan,
    MssLimits,
    Translations,
    GroupMember,
    PolicyPair,
    PolicySlot,
    Traffic,
    Refusals,
    ConnectionRecord,
    GroupRecord
);
pod!(CaptureFilter, CaptureLimit, CaptureSwitch);
