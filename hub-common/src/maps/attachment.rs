//! Interfaces: `ATTACHMENTS`, `FAR_ATTACHMENTS`, `VLANS`, `LINKS`.

/// Capacity of `FAR_ATTACHMENTS` and `PORTS`: interfaces and connections of one gateway. `TRAFFIC` and `REFUSALS` have
/// two entries more.
pub const MAX_CONNECTIONS: u32 = 4096;
/// Interfaces with a lower index have their attachment in `ATTACHMENTS`, others in the slower `FAR_ATTACHMENTS`.
pub const NEAR_INTERFACES: u32 = 1 << 14;

/// Number of generations of policy routes.
pub const POLICY_GENERATIONS: u16 = 4;

/// An ingress interface. Key: ifindex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Attachment {
    /// Scope of the look-up of the source.
    pub scope: u32,
    /// `COUNTERS` slot of packets that end before the selector stage has found their connection.
    pub connection: u32,
    /// The interface's own link address. Frames to another one are not for this host. Zero on raw-IP links.
    pub mac: [u8; 6],
    /// [`Attachment::ETHERNET`] and the like.
    pub flags: u16,
    /// Index into `TRANSLATIONS`; 0 for none.
    pub translations: u32,
}

impl Attachment {
    /// Frames start with an Ethernet header; without the flag, with the IP header.
    pub const ETHERNET: u16 = 1;
    /// The entry is in use. Unused elements of the array do not have it.
    pub const PRESENT: u16 = 4;
    /// There are policy routes for IPv4. Without the flag, `POLICY_ROUTES` is not looked up.
    pub const POLICY_ROUTES_V4: u16 = 8;
    /// The same for IPv6.
    pub const POLICY_ROUTES_V6: u16 = 16;
    /// Two bits: the generation of the policy routes. The agent writes a generation that no attachment has, then changes
    /// this. So a packet sees all policy routes before a change, or all after it.
    pub const POLICY_GENERATION: u16 = (POLICY_GENERATIONS - 1) << Self::GENERATION_SHIFT;
    const GENERATION_SHIFT: u32 = 5;

    /// The generation in flags.
    #[inline(always)]
    pub const fn policy_generation(flags: u16) -> u32 {
        (flags >> Self::GENERATION_SHIFT & (POLICY_GENERATIONS - 1)) as u32
    }

    /// Flags with another generation.
    pub const fn with_policy_generation(flags: u16, generation: u32) -> u16 {
        flags & !Self::POLICY_GENERATION | (generation as u16) << Self::GENERATION_SHIFT & Self::POLICY_GENERATION
    }

    /// Value of an unused element.
    pub const NONE: Self = Self { scope: 0, connection: 0, mac: [0; 6], flags: 0, translations: 0 };
}

/// Key of `VLANS`: a VLAN that has an interface of its own above `ifindex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Vlan {
    pub ifindex: u32,
    /// 1..=4094.
    pub id: u32,
}

/// Value of `LINKS`: sources that may reach the hub over the link itself, without a selector. Key: (ifindex, prefix),
/// IPv4 prefixes as IPv4-mapped ones.
pub mod link {
    /// A prefix of the link, or the `peer` of a connection there. Packets from it may go to the hub's addresses on the
    /// link.
    pub const SOURCE: u32 = 1;
    /// An address of the hub on the link, or the link's broadcast address.
    pub const HUB: u32 = 2;
    /// On the VPC's interface: a prefix of a link to a site.
    pub const SITE: u32 = 4;
}

const _: () = assert!(size_of::<Attachment>() == 20 && size_of::<Vlan>() == 8);
