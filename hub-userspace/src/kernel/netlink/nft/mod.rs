//! The nftables table `inet vpnhub`: limits what the kernel forwards, delivers and sends from and to the sites.
//!
//! It outlives the agent and is closed by default: it passes packets that the program has marked. It matches the
//! attachments of sites by name and by device group. Chains have policy accept: traffic of no site is left to other
//! tables.
//!
//! | chain | hook, priority | drops |
//! | --- | --- | --- |
//! | `prerouting` | prerouting, -300 | from a site without the mark's flag; `NO_ROUTE`, partly rejected |
//! | `input` | input, 0 | from a site without `LOCAL`; to no service |
//! | `forward` | forward, 0 | from or to a site, unless the mark's next hop is at this interface |
//! | `output` | output, 0 | to a site outside its selectors; elsewhere, replies to admitted packets |
//! | `postrouting` | postrouting, 0 | nothing: clears the mark of what leaves to a site, as ESP inherits it |
//!
//! From a site, `input` accepts only:
//!
//! - TCP to a service, and TCP that does not open a connection (anything except SYN without ACK);
//! - UDP to a service, and UDP from a peer to which the hub has sent UDP in the last 60 seconds, to the sending port;
//! - ICMP errors (3, 11, 12; of `ICMPv6` 1-4) and echo replies; echo requests with [`GuardService::Icmp`]. No
//!   redirects;
//! - IPv6 router solicitations, neighbour solicitations and advertisements. Neither router advertisements nor
//!   redirects: a hub learns no routes from a link;
//! - IPv6 fragments except the first: the kernel reassembles them after the hook, and only with the first.
//!
//! Other protocols, such as OSPF (89), VRRP (112), IGMP (2) or ESP (50), and multicast listener reports are dropped,
//! also to multicast and link-local destinations. UDP to those destinations needs a service, too.
//!
//! Replies carry the mark of the packet they answer (`fwmark_reflect`, ip-sysctl.rst), which the agent enables. So an
//! ICMP error about a site's packet does not leave by the host's default route when the route to the site is missing.
//!
//! To a site, `output` accepts ICMP errors, neighbour discovery and multicast listener reports, packets to
//! 224.0.0.0/24, 169.254.0.0/16, link-scope multicast (`ff02::/16`) and `fe80::/10`, and packets within the site's
//! selectors. Packet sockets (health checks) bypass it.
//!
//! Since Linux 6.9 the socket that writes the table owns it. While it is open, no other socket can change or remove the
//! table, and `flush ruleset` skips it. When it closes, the table stays without owner; the next [`Guard`] adopts it. On
//! an older kernel the table is plain, and is restored after changes by others.
//!
//! | file | holds |
//! | --- | --- |
//! | `wire` | nfnetlink messages and their attributes (pure) |
//! | `expression` | the expressions of rules (pure) |
//! | `table` | the table's owner and flags (pure) |
//! | `chains` | chains and counters (pure) |
//! | `rules` | the chains' rules (pure) |
//! | `sets` | sets and their elements (pure) |
//! | `output` | the interfaces' chains of selectors (pure) |
//! | `requests` | the socket for listings and changes |
//! | `watch` | the socket for events of others' changes |
//! | `guard` | [`Guard`], which reconciles the kernel's table with the ruleset |

mod chains;
mod expression;
mod guard;
mod output;
mod requests;
mod rules;
mod sets;
mod table;
mod watch;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use hub_common::Mark;
use imbl::OrdMap;
use ipnet::IpNet;
use rustix::io::Errno;

pub use self::guard::Guard;
use super::Refusal;

/// The table's name, in family `inet`.
pub const TABLE: &str = "vpnhub";

/// The table's desired contents. Equal values mean no change.
///
/// Names that are invalid for an interface (empty, or longer than 15 bytes) are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Names of the sites' interfaces, which may be missing.
    pub sites: BTreeSet<String>,
    /// Names of the other interfaces through which the hub may reply to admitted packets: the VPC's.
    pub vpc: BTreeSet<String>,
    /// Device group of the sites' interfaces (`IFLA_GROUP`), which survives a rename. 0, the kernel's default group,
    /// means none.
    pub group: u32,
    /// The mark that the program sets.
    pub mark: Mark,
    /// Traffic that the kernel may forward: the mark under its mask, and the name of the outgoing interface. Marks
    /// without the flag are left out.
    pub next_hops: BTreeSet<(u32, String)>,
    /// Traffic that the hub itself may send, by interface: the hub's side and the site's, both of one family. They may
    /// overlap.
    pub output: OrdMap<String, BTreeSet<(IpNet, IpNet)>>,
    /// Services on the hub that sites may reach.
    pub services: BTreeSet<GuardService>,
}

/// A service on the hub that sites may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardService {
    /// Echo requests, of both families.
    Icmp,
    Tcp(u16),
    Udp(u16),
}

/// A counter's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    /// Including the IP header.
    pub bytes: u64,
}

/// Drops since the table was created; zero without a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardCounters {
    /// From a site, without the program's mark.
    pub unmarked: Counter,
    /// Without a route; partly answered.
    pub no_route: Counter,
    /// From a site to the hub, not marked as local.
    pub input_not_local: Counter,
    /// From a site to the hub, to none of its services.
    pub input_no_service: Counter,
    /// From a site, to an interface that the mark does not allow.
    pub forward_from_site: Counter,
    /// From elsewhere to a site, likewise.
    pub forward_to_site: Counter,
    /// From the hub to a site, outside its selectors.
    pub output: Counter,
    /// `forward_to_site` by the interface's name, at most 256. Interfaces that sent nothing for a day are removed.
    pub strangers: BTreeMap<String, Counter>,
}

/// Why the table cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The kernel has no `nf_tables`, or not all of it.
    #[error("this kernel has no nf_tables: load the module nf_tables, or build with CONFIG_NF_TABLES_INET ({0})")]
    Missing(#[source] io::Error),
    /// A part is missing, such as an expression.
    #[error(
        "this kernel's nf_tables lacks a part that the table inet {TABLE} needs: load the modules nft_limit, nft_objref \
         and nft_reject_inet, or build with CONFIG_NFT_LIMIT, CONFIG_NFT_OBJREF and CONFIG_NFT_REJECT_INET ({0})"
    )]
    Incomplete(Refusal),
    /// No `CAP_NET_ADMIN` in the user namespace of this network namespace.
    #[error("the nftables table inet {TABLE} needs CAP_NET_ADMIN: run as root")]
    Permission,
    /// The socket of another process owns the table.
    #[error(
        "the nftables table inet {TABLE} is owned by another process, of netlink port {port} (usually its process id): \
         stop that process; a table that systemd holds for a stopped unit is released by \
         `systemctl clean --what=fdstore vpnhub`"
    )]
    Owned {
        /// The netlink port of its socket.
        port: u32,
    },
    /// The mark has no single flag bit, or no bits for the number.
    #[error(
        "the mark {flag:#x}/{mask:#x} needs one bit as flag, and other bits of the mask for the number; correct \
         [dataplane] mark"
    )]
    Mark {
        /// The ruleset's.
        flag: u32,
        /// The ruleset's.
        mask: u32,
    },
    /// The socket failed, or answers were lost.
    #[error("the netlink socket failed while {what}: {source}")]
    Socket {
        /// The operation.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Any other refusal by the kernel.
    #[error("the kernel refused while {what}: {refusal}")]
    Refused {
        /// The operation.
        what: &'static str,
        /// The kernel's answer.
        refusal: Refusal,
    },
}

impl GuardError {
    /// Maps the kernel's refusal of a request.
    fn refused(what: &'static str, refusal: Refusal) -> Self {
        match Errno::from_raw_os_error(refusal.errno) {
            Errno::PERM | Errno::ACCESS => Self::Permission,
            Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
                Self::Missing(io::Error::from_raw_os_error(refusal.errno))
            }
            _ => Self::Refused { what, refusal },
        }
    }

    /// Maps a failure to open a socket.
    fn no_socket(source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => Self::Missing(source),
            Some(Errno::PERM | Errno::ACCESS) => Self::Permission,
            _ => Self::Socket { what: "opening it", source },
        }
    }
}

#[cfg(test)]
mod tests;
