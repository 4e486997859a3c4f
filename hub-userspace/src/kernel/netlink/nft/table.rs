//! The table itself and its owner. Pure.
//!
//! A table with the flags `owner` and `persist` belongs to the netlink socket that created it (Linux 6.9). Other
//! sockets get `EPERM`, and `flush ruleset` skips it. When that socket closes, the table stays and any socket can
//! change or remove it, until another socket adopts it with the same flags (`nf_tables_updtable`). These flags cannot
//! change otherwise, so a table without them must be replaced.

use super::{
    TABLE,
    wire::{Messages, NLM_F_CREATE, NLM_F_EXCL, NftMessage, TABLE_NAME, attribute, big32},
};

/// `NFTA_TABLE_*`.
const FLAGS: u16 = 2;
const OWNER: u16 = 7;
/// `NFTA_CHAIN_NAME`.
const CHAIN_NAME: u16 = 3;
/// `NFT_TABLE_F_*`.
const F_OWNER: u32 = 2;
const F_PERSIST: u32 = 4;

/// Whether the socket that writes the table owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Owned; the table outlives the socket.
    Owned,
    /// Without owner: the kernel is older than 6.9.
    Plain,
}

/// The table's attributes in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NftTable {
    flags: u32,
    /// The netlink port of the socket that owns it.
    pub owner: Option<u32>,
}

impl Ownership {
    const fn flags(self) -> u32 {
        match self {
            Self::Owned => F_OWNER | F_PERSIST,
            Self::Plain => 0,
        }
    }
}

impl NftTable {
    pub fn read(shown: &[u8]) -> Self {
        let number = |kind| attribute(shown, kind).and_then(big32);
        Self { flags: number(FLAGS).unwrap_or(0), owner: number(OWNER) }
    }

    /// Whether it can get this ownership without being replaced.
    pub fn can_become(self, ownership: Ownership) -> bool {
        match ownership {
            Ownership::Owned => self.flags & F_PERSIST != 0,
            Ownership::Plain => self.flags & (F_OWNER | F_PERSIST) == 0,
        }
    }

    /// Creates or adopts the table. Also reactivates a dormant one.
    pub fn create(messages: &mut Messages, ownership: Ownership) {
        messages.message(NftMessage::NewTable, NLM_F_CREATE, |message| message.u32(FLAGS, ownership.flags()));
    }

    pub fn delete(messages: &mut Messages) {
        messages.message(NftMessage::DeleteTable, 0, |_| ());
    }
}

/// Probes whether the kernel supports such tables, without any change: the second message fails with `ENOENT`, so
/// neither is applied. Without support, the first refusal is `EOPNOTSUPP` or `EINVAL`.
pub fn probe(messages: &mut Messages) {
    let name = format!("{TABLE}-probe");
    messages.bare(NftMessage::NewTable, NLM_F_CREATE | NLM_F_EXCL, |message| {
        message.string(TABLE_NAME, &name);
        message.u32(FLAGS, Ownership::Owned.flags());
    });
    messages.bare(NftMessage::DeleteChain, 0, |message| {
        message.string(TABLE_NAME, &name);
        message.string(CHAIN_NAME, "none");
    });
}
