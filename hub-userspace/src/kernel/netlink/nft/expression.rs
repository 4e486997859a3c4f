//! Rule expressions (`enum nft_*_attributes` in `linux/netfilter/nf_tables.h`). Pure.
//!
//! Registers are numbered in units of four bytes here (`NFT_REG32_00` + n). An interface name takes four registers, an
//! IPv6 address four, anything else one. Values in adjacent registers form one key.

use super::wire::{LIST_ELEMENT, Messages};

/// `NFT_REG32_00`.
const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// `enum nft_meta_keys`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Meta {
    Mark = 3,
    IngressName = 6,
    EgressName = 7,
    Family = 15,
    Protocol = 16,
    IngressGroup = 21,
    EgressGroup = 22,
}

/// `enum nft_payload_bases`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Header {
    Network = 1,
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Compare {
    Equal = 0,
    Differs = 1,
}

#[derive(Debug, Clone, Copy)]
pub enum NftVerdict<'a> {
    Drop,
    Accept,
    /// Continues in that chain, without return.
    Goto(&'a str),
    /// The same, and behind the rule after that chain's end.
    Jump(&'a str),
}

/// The expressions of a rule.
pub struct Expressions<'a>(pub &'a mut Messages);

impl Expressions<'_> {
    fn add(&mut self, name: &str, write: impl FnOnce(&mut Messages)) -> &mut Self {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        self.0.nest(LIST_ELEMENT, |message| {
            message.string(NFTA_EXPR_NAME, name);
            message.nest(NFTA_EXPR_DATA, write);
        });
        self
    }

    pub fn meta(&mut self, key: Meta, register: u32) -> &mut Self {
        self.add("meta", |message| {
            message.u32(1, FIRST_REGISTER + register);
            message.u32(2, key as u32);
        })
    }

    /// Sets the packet's mark to a register.
    pub fn set_mark(&mut self, register: u32) -> &mut Self {
        self.add("meta", |message| {
            message.u32(2, Meta::Mark as u32);
            message.u32(3, FIRST_REGISTER + register);
        })
    }

    /// Loads `length` bytes from `offset`, network byte order. The rule does not match if the packet is too short.
    pub fn payload(&mut self, base: Header, offset: u32, length: u32, register: u32) -> &mut Self {
        self.add("payload", |message| {
            message.u32(1, FIRST_REGISTER + register);
            message.u32(2, base as u32);
            message.u32(3, offset);
            message.u32(4, length);
        })
    }

    /// The same for an IPv6 extension header. The rule does not match if the packet has none.
    pub fn extension(&mut self, header: u8, offset: u32, length: u32, register: u32) -> &mut Self {
        self.add("exthdr", |message| {
            message.u32(1, FIRST_REGISTER + register);
            message.u8(2, header);
            message.u32(3, offset);
            message.u32(4, length);
        })
    }

    /// Clears all other bits of a register.
    pub fn mask(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        self.add("bitwise", |message| {
            message.u32(1, FIRST_REGISTER + register);
            message.u32(2, FIRST_REGISTER + register);
            message.u32(3, mask.len() as u32);
            message.data(4, mask);
            message.data(5, &[0; 16][..mask.len()]);
        })
    }

    /// The rule matches only if the comparison holds.
    pub fn compare(&mut self, register: u32, compare: Compare, value: &[u8]) -> &mut Self {
        self.add("cmp", |message| {
            message.u32(1, FIRST_REGISTER + register);
            message.u32(2, compare as u32);
            message.data(3, value);
        })
    }

    /// The rule matches only if the key is in the set.
    pub fn lookup(&mut self, register: u32, set: &str) -> &mut Self {
        self.add("lookup", |message| {
            message.string(1, set);
            message.u32(2, FIRST_REGISTER + register);
        })
    }

    /// Applies the verdict that the set has for the key, if any.
    pub fn verdict_of(&mut self, register: u32, set: &str) {
        self.add("lookup", |message| {
            message.string(1, set);
            message.u32(2, FIRST_REGISTER + register);
            message.u32(3, VERDICT_REGISTER);
        });
    }

    /// Adds the key to the set, or restarts its timeout. The rule does not match if the set is full.
    pub fn remember(&mut self, register: u32, set: &str, counted: bool) -> &mut Self {
        const NFT_DYNSET_OP_UPDATE: u32 = 1;
        const NFTA_DYNSET_EXPR: u16 = 7;
        self.add("dynset", |message| {
            message.string(1, set);
            message.u32(3, NFT_DYNSET_OP_UPDATE);
            message.u32(4, FIRST_REGISTER + register);
            if counted {
                message.nest(NFTA_DYNSET_EXPR, |message| {
                    message.string(1, "counter");
                    message.nest(2, |_| ());
                });
            }
        })
    }

    pub fn count(&mut self, counter: &str) -> &mut Self {
        const NFT_OBJECT_COUNTER: u32 = 1;
        self.add("objref", |message| {
            message.u32(1, NFT_OBJECT_COUNTER);
            message.string(2, counter);
        })
    }

    /// The rule matches only packets below this rate.
    pub fn limit(&mut self, packets_per_second: u64, burst: u32) -> &mut Self {
        const SECOND: u64 = 1;
        const PACKETS: u32 = 0;
        self.add("limit", |message| {
            message.u64(1, packets_per_second);
            message.u64(2, SECOND);
            message.u32(3, burst);
            message.u32(4, PACKETS);
            message.u32(5, 0);
        })
    }

    /// Replies "host unreachable" or "address unreachable", and drops the packet.
    pub fn reject(&mut self) -> &mut Self {
        const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
        const NFT_REJECT_ICMPX_HOST_UNREACH: u8 = 2;
        self.add("reject", |message| {
            message.u32(1, NFT_REJECT_ICMPX_UNREACH);
            message.u8(2, NFT_REJECT_ICMPX_HOST_UNREACH);
        })
    }

    pub fn verdict(&mut self, verdict: NftVerdict<'_>) {
        self.add("immediate", |message| {
            message.u32(1, VERDICT_REGISTER);
            message.nest(2, |message| verdict::write(message, verdict));
        });
    }
}

/// `NFTA_DATA_VERDICT` and its attributes.
pub mod verdict {
    use super::{
        super::wire::{attribute, big32, text},
        Messages, NftVerdict,
    };

    const NFTA_DATA_VERDICT: u16 = 2;
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    const NF_DROP: u32 = 0;
    const NF_ACCEPT: u32 = 1;
    const NFT_JUMP: u32 = (-3_i32).cast_unsigned();
    const NFT_GOTO: u32 = (-4_i32).cast_unsigned();

    pub fn write(message: &mut Messages, verdict: NftVerdict<'_>) {
        let (code, chain) = match verdict {
            NftVerdict::Drop => (NF_DROP, None),
            NftVerdict::Accept => (NF_ACCEPT, None),
            NftVerdict::Goto(chain) => (NFT_GOTO, Some(chain)),
            NftVerdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        };
        message.nest(NFTA_DATA_VERDICT, |message| {
            message.u32(CODE, code);
            if let Some(chain) = chain {
                message.string(CHAIN, chain);
            }
        });
    }

    /// The chain, if this verdict jumps to one.
    pub fn jump(verdict: &[u8]) -> Option<&str> {
        let is_jump = attribute(verdict, CODE).and_then(big32) == Some(NFT_JUMP);
        attribute(verdict, CHAIN).filter(|_| is_jump).map(text)
    }
}
