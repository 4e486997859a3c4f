//! The table itself, and who owns it. Pure.
//!
//! A table with the flags `owner` and `persist` belongs to the netlink socket that made it (Linux 6.9): others get `EPERM`,
//! and `flush ruleset` passes it over. When that socket closes, the table stays, and is anybody's to change or remove, until
//! another socket adopts it by the same flags (`nf_tables_updtable`). No other change of these flags is possible, so a
//! table without them has to be replaced.

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

/// Whether the table belongs to the socket that writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// It does, and outlives that socket.
    Owned,
    /// It belongs to nobody: the kernel is older than 6.9.
    Plain,
}

/// What the kernel shows of the table.
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

    /// Whether it can be had with this ownership without being replaced.
    pub fn can_become(self, ownership: Ownership) -> bool {
        match ownership {
            Ownership::Owned => self.flags & F_PERSIST != 0,
            Ownership::Plain => self.flags & (F_OWNER | F_PERSIST) == 0,
        }
    }

    /// Makes it, or adopts it. Also makes one work again that is dormant.
    pub fn create(messages: &mut Messages, ownership: Ownership) {
        messages.message(NftMessage::NewTable, NLM_F_CREATE, |message| message.u32(FLAGS, ownership.flags()));
    }

    pub fn delete(messages: &mut Messages) {
        messages.message(NftMessage::DeleteTable, 0, |_| ());
    }
}

/// Finds out whether the kernel knows such tables, and changes nothing: the second message fails, with `ENOENT`, so neither
/// is carried out. The first refusal is `EOPNOTSUPP` or `EINVAL` if it does not.
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
