//! The rules of the chains, in evaluation order. Pure.
//!
//! Marked packets are matched first, then interface names, then the device group.

use hub_common::Mark;
use ipnet::IpNet;

use super::{
    chains::{
        CLEAR_MARK, FORWARD_FROM_SITE, FORWARD_TO_SITE, Frame, INPUT_NOT_LOCAL, INPUT_SITE, INPUT_SITE6, MARKED,
        NO_ROUTE, OUTPUT_ACCEPT, OUTPUT_ACCEPT6, OUTPUT_ANSWER, OUTPUT_SITE, OUTPUT_SITE6, UNMARKED, counter,
    },
    expression::{Compare, Expressions, Header, Meta, NftVerdict},
    sets::{
        ICMP_INPUT, ICMP_OUTPUT, ICMP6_INPUT, ICMP6_OUTPUT, NEXT_HOPS, SELECTORS, SITES, STRANGERS, Set, TCP_SERVICES,
        UDP_REPLIES4, UDP_REPLIES6, UDP_SERVICES, VPC,
    },
    wire::{Messages, NLM_F_APPEND, NLM_F_CREATE, NftMessage},
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const FRAGMENT: u8 = 44;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Appends rules to chains.
struct Rules<'a> {
    messages: &'a mut Messages,
    frame: Frame,
}

/// Appends a rule to a chain.
fn rule(messages: &mut Messages, chain: &str, write: impl FnOnce(&mut Expressions<'_>)) {
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    messages.message(NftMessage::NewRule, NLM_F_CREATE | NLM_F_APPEND, |message| {
        message.string(CHAIN, chain);
        message.nest(EXPRESSIONS, |message| write(&mut Expressions(message)));
    });
}

/// The rule for what the hub may send to a site; none for prefixes of different families.
pub fn site_pair(messages: &mut Messages, chain: &str, hub: IpNet, site: IpNet) {
    let family = match (hub, site) {
        (IpNet::V4(_), IpNet::V4(_)) => &FAMILY4,
        (IpNet::V6(_), IpNet::V6(_)) => &FAMILY6,
        _ => return,
    };
    rule(messages, chain, |rule| {
        rule.family(family)
            .within(family.source, hub)
            .within(family.destination, site)
            .verdict(NftVerdict::Goto(family.accept));
    });
}

/// All rules of all chains.
pub fn rules(messages: &mut Messages, frame: Frame) {
    let mut rules = Rules { messages, frame };
    rules.prerouting();
    rules.input();
    rules.forward();
    rules.output();
    rules.postrouting();
}

impl Rules<'_> {
    fn rule(&mut self, chain: &str, write: impl FnOnce(&mut Expressions<'_>)) {
        rule(self.messages, chain, write);
    }

    /// Sends the packets from or to a site to another chain.
    fn of_sites(&mut self, chain: &str, name: Meta, group: Meta, then: &'static str) {
        self.rule(chain, |rule| rule.meta(name, 0).lookup(0, SITES.name).verdict(NftVerdict::Goto(then)));
        let number = self.frame.group;
        if number != 0 {
            self.rule(chain, |rule| {
                rule.meta(group, 0).compare(0, Compare::Equal, &number.to_ne_bytes()).verdict(NftVerdict::Goto(then));
            });
        }
    }

    fn count_and_drop(&mut self, chain: &str, counter: &str) {
        self.rule(chain, |rule| rule.count(counter).verdict(NftVerdict::Drop));
    }

    fn prerouting(&mut self) {
        const CHAIN: &str = "prerouting";
        let Frame { mark, .. } = self.frame;
        self.rule(CHAIN, |rule| {
            rule.mark(mark.flag).compare(0, Compare::Equal, &mark.flag.to_ne_bytes()).verdict(NftVerdict::Goto(MARKED));
        });
        self.rule(MARKED, |rule| {
            rule.mark(mark.mask)
                .compare(0, Compare::Equal, &mark.numbered(Mark::NO_ROUTE).to_ne_bytes())
                .verdict(NftVerdict::Goto(NO_ROUTE));
        });
        self.rule(MARKED, |rule| rule.verdict(NftVerdict::Accept));
        self.of_sites(CHAIN, Meta::IngressName, Meta::IngressGroup, UNMARKED);
        self.count_and_drop(UNMARKED, counter::UNMARKED);

        self.rule(NO_ROUTE, |rule| _ = rule.count(counter::NO_ROUTE));
        self.rule(NO_ROUTE, |rule| _ = rule.limit(100, 100).reject());
        self.rule(NO_ROUTE, |rule| rule.verdict(NftVerdict::Drop));
    }

    fn input(&mut self) {
        let Frame { mark, .. } = self.frame;
        self.of_sites("input", Meta::IngressName, Meta::IngressGroup, INPUT_SITE);
        self.rule(INPUT_SITE, |rule| {
            rule.mark(mark.mask)
                .compare(0, Compare::Differs, &mark.local().to_ne_bytes())
                .verdict(NftVerdict::Goto(INPUT_NOT_LOCAL));
        });
        self.count_and_drop(INPUT_NOT_LOCAL, counter::INPUT_NOT_LOCAL);
        self.rule(INPUT_SITE, |rule| {
            rule.protocol(TCP)
                .payload(Header::Transport, 13, 1, 0)
                .mask(0, &[SYN | ACK])
                .compare(0, Compare::Differs, &[SYN])
                .verdict(NftVerdict::Accept);
        });
        for (protocol, services) in [(TCP, &TCP_SERVICES), (UDP, &UDP_SERVICES)] {
            self.rule(INPUT_SITE, |rule| {
                rule.protocol(protocol)
                    .payload(Header::Transport, 2, 2, 0)
                    .lookup(0, services.name)
                    .verdict(NftVerdict::Accept);
            });
        }
        self.rule(INPUT_SITE, |rule| rule.family(&FAMILY6).verdict(NftVerdict::Goto(INPUT_SITE6)));
        for (chain, family, protocol, types) in
            [(INPUT_SITE, &FAMILY4, ICMP, &ICMP_INPUT), (INPUT_SITE6, &FAMILY6, ICMP6, &ICMP6_INPUT)]
        {
            self.rule(chain, |rule| {
                rule.protocol(UDP)
                    .flow(family, PairSide::Reply)
                    .lookup(0, family.udp_replies.name)
                    .verdict(NftVerdict::Accept);
            });
            self.icmp(chain, protocol, types);
        }
        // The kernel reassembles these after this hook, and only with a first fragment that has passed it.
        self.rule(INPUT_SITE6, |rule| {
            rule.extension(FRAGMENT, 2, 2, 0)
                .mask(0, &0xfff8_u16.to_be_bytes())
                .compare(0, Compare::Differs, &[0; 2])
                .verdict(NftVerdict::Accept);
        });
        self.count_and_drop(INPUT_SITE, counter::INPUT_NO_SERVICE);
        self.count_and_drop(INPUT_SITE6, counter::INPUT_NO_SERVICE);
    }

    fn icmp(&mut self, chain: &str, protocol: u8, types: &Set) {
        self.rule(chain, |rule| {
            rule.protocol(protocol)
                .payload(Header::Transport, 0, 1, 0)
                .lookup(0, types.name)
                .verdict(NftVerdict::Accept);
        });
    }

    fn forward(&mut self) {
        const CHAIN: &str = "forward";
        let Frame { mark, .. } = self.frame;
        self.rule(CHAIN, |rule| {
            rule.mark(mark.mask).meta(Meta::EgressName, 1).lookup(0, NEXT_HOPS.name).verdict(NftVerdict::Accept);
        });
        self.of_sites(CHAIN, Meta::IngressName, Meta::IngressGroup, FORWARD_FROM_SITE);
        self.of_sites(CHAIN, Meta::EgressName, Meta::EgressGroup, FORWARD_TO_SITE);
        self.count_and_drop(FORWARD_FROM_SITE, counter::FORWARD_FROM_SITE);
        // A rule of its own, because it does not match when the set is full.
        self.rule(FORWARD_TO_SITE, |rule| {
            _ = rule.meta(Meta::IngressName, 0).remember(0, STRANGERS.name, true);
        });
        self.count_and_drop(FORWARD_TO_SITE, counter::FORWARD_TO_SITE);
    }

    fn output(&mut self) {
        let Frame { mark, .. } = self.frame;
        // The kernel answers unknown hop-by-hop options before any hook (`ip6_rcv_core`, net/ipv6/ip6_input.c): a site
        // could direct its answers at a victim. Matches parameter problem (4) quoting next header 0.
        self.rule("output", |rule| {
            rule.protocol(ICMP6)
                .payload(Header::Transport, 0, 1, 0)
                .compare(0, Compare::Equal, &[4])
                .payload(Header::Transport, 8 + 6, 1, 0)
                .compare(0, Compare::Equal, &[0])
                .count(counter::OUTPUT)
                .verdict(NftVerdict::Drop);
        });
        // One way only to the interfaces' chains: the kernel validates the chains behind each way on every change.
        self.of_sites("output", Meta::EgressName, Meta::EgressGroup, OUTPUT_SITE);
        self.rule("output", |rule| {
            rule.mark(mark.flag)
                .compare(0, Compare::Equal, &mark.flag.to_ne_bytes())
                .verdict(NftVerdict::Goto(OUTPUT_ANSWER));
        });
        self.rule(OUTPUT_ANSWER, |rule| rule.meta(Meta::EgressName, 0).lookup(0, VPC.name).verdict(NftVerdict::Accept));
        self.count_and_drop(OUTPUT_ANSWER, counter::OUTPUT);

        self.rule(OUTPUT_SITE, |rule| rule.family(&FAMILY6).verdict(NftVerdict::Goto(OUTPUT_SITE6)));

        self.icmp(OUTPUT_SITE, ICMP, &ICMP_OUTPUT);
        self.towards(OUTPUT_SITE, &FAMILY4, &[255, 255, 255], &[224, 0, 0]);
        self.towards(OUTPUT_SITE, &FAMILY4, &[255, 255], &[169, 254]);

        self.icmp(OUTPUT_SITE6, ICMP6, &ICMP6_OUTPUT);
        // Link-scope multicast with any flags (RFC 4291, 2.7), and link-local addresses.
        self.towards(OUTPUT_SITE6, &FAMILY6, &[0xff, 0x0f], &[0xff, 0x02]);
        self.towards(OUTPUT_SITE6, &FAMILY6, &[0xff, 0xc0], &[0xfe, 0x80]);

        for (chain, family) in [(OUTPUT_SITE, &FAMILY4), (OUTPUT_SITE6, &FAMILY6)] {
            self.rule(chain, |rule| rule.meta(Meta::EgressName, 0).verdict_of(0, SELECTORS.name));
            self.count_and_drop(chain, counter::OUTPUT);

            self.rule(family.accept, |rule| {
                rule.meta(Meta::Protocol, 0).compare(0, Compare::Differs, &[UDP]).verdict(NftVerdict::Accept);
            });
            // A service's replies open no pinhole: sites could fill the set with them.
            self.rule(family.accept, |rule| {
                rule.payload(Header::Transport, 0, 2, 0).lookup(0, UDP_SERVICES.name).verdict(NftVerdict::Accept);
            });
            // The rule does not match when the set is full.
            self.rule(family.accept, |rule| {
                _ = rule.flow(family, PairSide::Request).remember(0, family.udp_replies.name, false);
            });
            self.rule(family.accept, |rule| rule.verdict(NftVerdict::Accept));
        }
    }

    /// An ESP packet inherits the mark of the packet inside, and leaves by an interface that this mark does not allow. All
    /// checks have been made here.
    fn postrouting(&mut self) {
        let Frame { mark, .. } = self.frame;
        self.of_sites("postrouting", Meta::EgressName, Meta::EgressGroup, CLEAR_MARK);
        self.rule(CLEAR_MARK, |rule| _ = rule.mark(!mark.mask).set_mark(0));
    }

    /// Accepts packets to this prefix.
    fn towards(&mut self, chain: &str, family: &'static FamilyFields, mask: &[u8], begin: &[u8]) {
        self.rule(chain, |rule| {
            rule.family(family)
                .payload(Header::Network, family.destination, mask.len() as u32, 0)
                .mask(0, mask)
                .compare(0, Compare::Equal, begin)
                .verdict(NftVerdict::Goto(family.accept));
        });
    }
}

/// Header offsets and other differences of an IP version.
struct FamilyFields {
    number: u8,
    /// Bytes from the start of the header.
    source: u32,
    destination: u32,
    /// Length in bytes.
    address: u32,
    udp_replies: &'static Set,
    accept: &'static str,
}

static FAMILY4: FamilyFields = FamilyFields {
    number: NFPROTO_IPV4,
    source: 12,
    destination: 16,
    address: 4,
    udp_replies: &UDP_REPLIES4,
    accept: OUTPUT_ACCEPT,
};

static FAMILY6: FamilyFields = FamilyFields {
    number: NFPROTO_IPV6,
    source: 8,
    destination: 24,
    address: 16,
    udp_replies: &UDP_REPLIES6,
    accept: OUTPUT_ACCEPT6,
};

impl FamilyFields {
    /// Registers of an address.
    const fn registers(&self) -> u32 {
        self.address / 4
    }
}

#[derive(Debug, Clone, Copy)]
enum PairEnd {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy)]
enum PairSide {
    /// Sent by the hub.
    Request,
    /// Received by the hub.
    Reply,
}

impl Expressions<'_> {
    /// Loads the mark and masks it.
    fn mark(&mut self, bits: u32) -> &mut Self {
        self.meta(Meta::Mark, 0).mask(0, &bits.to_ne_bytes())
    }

    /// Matches the protocol after IPv6 extension headers.
    fn protocol(&mut self, protocol: u8) -> &mut Self {
        self.meta(Meta::Protocol, 0).compare(0, Compare::Equal, &[protocol])
    }

    /// Also makes `nft list` format the following addresses.
    fn family(&mut self, family: &FamilyFields) -> &mut Self {
        self.meta(Meta::Family, 0).compare(0, Compare::Equal, &[family.number])
    }

    fn address(&mut self, family: &FamilyFields, end: PairEnd, register: u32) -> &mut Self {
        let offset = match end {
            PairEnd::Source => family.source,
            PairEnd::Destination => family.destination,
        };
        self.payload(Header::Network, offset, family.address, register)
    }

    /// Matches an address at this offset of the IP header.
    fn within(&mut self, offset: u32, prefix: IpNet) -> &mut Self {
        let (bits, bytes) = match prefix.trunc() {
            IpNet::V4(net) => (net.prefix_len(), net.addr().octets().to_vec()),
            IpNet::V6(net) => (net.prefix_len(), net.addr().octets().to_vec()),
        };
        let begin = &bytes[..usize::from(bits.div_ceil(8))];
        if begin.is_empty() {
            return self;
        }
        self.payload(Header::Network, offset, begin.len() as u32, 0);
        if bits % 8 != 0 {
            let mut mask = vec![0xff; begin.len()];
            mask[begin.len() - 1] <<= 8 - bits % 8;
            self.mask(0, &mask);
        }
        self.compare(0, Compare::Equal, begin)
    }

    /// The hub's address, the peer's, the hub's port, the peer's.
    fn flow(&mut self, family: &FamilyFields, side: PairSide) -> &mut Self {
        let (hub, peer, hub_port, peer_port) = match side {
            PairSide::Request => (PairEnd::Source, PairEnd::Destination, 0, 2),
            PairSide::Reply => (PairEnd::Destination, PairEnd::Source, 2, 0),
        };
        let registers = family.registers();
        self.family(family)
            .address(family, hub, 0)
            .address(family, peer, registers)
            .payload(Header::Transport, hub_port, 2, 2 * registers)
            .payload(Header::Transport, peer_port, 2, 2 * registers + 1)
    }
}
