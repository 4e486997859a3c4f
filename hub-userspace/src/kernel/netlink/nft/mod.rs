//! The nftables table `inet vpnhub`: what the kernel may forward, deliver and send from and to the sites.
//!
//! It stays when the agent ends, and it is closed by default: it lets pass what the program has marked, and knows the
//! attachments of sites by name and by device group. Chains accept by policy, so that other tables' verdicts hold for all
//! that does not concern a site.
//!
//! | chain | hook, priority | drops |
//! | --- | --- | --- |
//! | `prerouting` | prerouting, -300 | from a site without the mark's flag; `NO_ROUTE`, some of it answered "host unreachable" |
//! | `input` | input, 0 | from a site without `LOCAL`; what is no service |
//! | `forward` | forward, 0 | from or to a site, unless the mark's next hop is at this interface |
//! | `output` | output, 0 | to a site what is not in its selectors; to elsewhere an answer to what the program has admitted |
//!
//! From a site, `input` accepts, and nothing else:
//!
//! * TCP to a service, and TCP that does not open a connection (any but SYN without ACK);
//! * UDP to a service, and from where the hub has sent UDP in the last 60 seconds, to the port that sent it;
//! * ICMP errors (3, 11, 12; of `ICMPv6` 1-4) and echo replies; echo requests if [`GuardService::Icmp`] is there. No redirects;
//! * IPv6 router solicitations, neighbour solicitations and advertisements. Neither router advertisements nor redirects:
//!   a hub takes its routes from nobody at a link;
//! * IPv6 fragments but the first: the kernel puts them together behind the hook, and not without the first.
//!
//! Other protocols, as OSPF (89), VRRP (112), IGMP (2) or ESP (50), and multicast listener reports are dropped, to
//! multicast and link-local destinations, too. UDP to those needs a service like any other.
//!
//! Answers have the mark of what they answer (`fwmark_reflect`, ip-sysctl.rst), which the agent switches on: so an ICMP
//! error about a site's packet does not leave by the host's default route where the route to the site has gone.
//!
//! To a site, `output` accepts ICMP errors, neighbour discovery and multicast listener reports, what goes to 224.0.0.0/24,
//! 169.254.0.0/16, multicast of link scope (`ff02::/16`) and `fe80::/10`, and what is in the site's selectors. Packet sockets
//! (health checks) do not come past it.
//!
//! Since Linux 6.9 the table belongs to the socket that writes it: while that is open, nobody else can change or remove it, and
//! `flush ruleset` passes it over. When it closes, the table stays and is anybody's to change; the next [`Guard`] adopts it.
//! A kernel before that has a plain table, which is put back when others have changed it.
//!
//! | file | holds |
//! | --- | --- |
//! | `wire` | nfnetlink messages and their attributes (pure) |
//! | `expression` | the expressions of rules (pure) |
//! | `table` | the table's owner and flags (pure) |
//! | `chains` | chains and counters (pure) |
//! | `rules` | the chains' rules (pure) |
//! | `sets` | sets and their elements (pure) |
//! | `selectors` | selector pairs without overlaps (pure) |
//! | `requests` | the socket that asks and changes |
//! | `watch` | the socket that hears of others' changes |
//! | `guard` | [`Guard`], which brings the kernel from what is there to what is to be |

mod chains;
mod expression;
mod guard;
mod requests;
mod rules;
mod selectors;
mod sets;
mod table;
mod watch;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use hub_common::Mark;
use ipnet::IpNet;
use rustix::io::Errno;

pub use self::guard::Guard;
use super::Refusal;

/// Of family `inet`.
pub const TABLE: &str = "vpnhub";

/// What the table is to say. Equal values mean no change.
///
/// Names that no interface can have (empty, or longer than 15 bytes) are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Names of the sites' interfaces, which need not exist.
    pub sites: BTreeSet<String>,
    /// Names of the other interfaces by which the hub may answer what the program has admitted: the VPC's.
    pub vpc: BTreeSet<String>,
    /// Device group of the sites' interfaces (`IFLA_GROUP`), which survives a rename. 0, the group that interfaces are in
    /// by default: none.
    pub group: u32,
    /// How the program marks packets.
    pub mark: Mark,
    /// What the kernel may forward: the mark under its mask, and the name of the interface that the packet leaves by.
    /// Marks without the flag are left out.
    pub next_hops: BTreeSet<(u32, String)>,
    /// What the hub itself may send: interface, the hub's side, the site's side, both of one family. They may overlap.
    pub output: BTreeSet<(String, IpNet, IpNet)>,
    /// What sites may reach on the hub.
    pub services: BTreeSet<GuardService>,
}

/// Something on the hub that sites may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardService {
    /// Echo requests, of both families.
    Icmp,
    /// The port.
    Tcp(u16),
    /// The port.
    Udp(u16),
}

/// What a counter shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    /// From the IP header on.
    pub bytes: u64,
}

/// What was dropped since the table was made; zero where there is no table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardCounters {
    /// Came from a site without the program's mark.
    pub unmarked: Counter,
    /// Had no route; some of it was answered.
    pub no_route: Counter,
    /// Came from a site to the hub, though not marked as local.
    pub input_not_local: Counter,
    /// Came from a site to the hub, and is none of its services.
    pub input_no_service: Counter,
    /// Came from a site, and its mark does not admit it to the interface that the kernel chose.
    pub forward_from_site: Counter,
    /// Came from elsewhere to a site, likewise.
    pub forward_to_site: Counter,
    /// The hub's own, to a site, beyond its selectors.
    pub output: Counter,
    /// `forward_to_site` by the interface's name, 256 of them at most; without those that sent nothing for a day.
    pub strangers: BTreeMap<String, Counter>,
}

/// Why the table cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The kernel has no `nf_tables`, or not all of it.
    #[error("this kernel has no nf_tables: load the module nf_tables, or build with CONFIG_NF_TABLES_INET ({0})")]
    Missing(#[source] io::Error),
    /// A part is missing, as an expression of a rule.
    #[error(
        "this kernel's nf_tables lacks a part that the table inet {TABLE} needs: load the modules nft_reject_inet and \
         nft_limit, or build with CONFIG_NFT_REJECT_INET and CONFIG_NFT_LIMIT ({0})"
    )]
    Incomplete(Refusal),
    /// No `CAP_NET_ADMIN` in the user namespace of this network namespace.
    #[error("the nftables table inet {TABLE} needs CAP_NET_ADMIN: run as root")]
    Permission,
    /// The socket of another process owns the table.
    #[error(
        "the nftables table inet {TABLE} is owned by another process, of netlink port {port} (usually its process id): \
         stop that process; a table that systemd keeps for a stopped unit is released by \
         `systemctl clean --what=fdstore vpnhub`"
    )]
    Owned {
        /// The netlink port of its socket.
        port: u32,
    },
    /// The mark cannot tell packets apart.
    #[error(
        "the mark {flag:#x}/{mask:#x} needs one bit as flag, and other bits of the mask for the number; correct \
         [dataplane] mark"
    )]
    Mark {
        /// Of the ruleset.
        flag: u32,
        /// Of the ruleset.
        mask: u32,
    },
    /// The socket failed, or answers were lost.
    #[error("the netlink socket failed while {what}: {source}")]
    Socket {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another answer of the kernel's.
    #[error("the kernel refused while {what}: {refusal}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        refusal: Refusal,
    },
}

impl GuardError {
    /// What the kernel's answer to a request means.
    fn refused(what: &'static str, refusal: Refusal) -> Self {
        match Errno::from_raw_os_error(refusal.errno) {
            Errno::PERM | Errno::ACCESS => Self::Permission,
            Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
                Self::Missing(io::Error::from_raw_os_error(refusal.errno))
            }
            _ => Self::Refused { what, refusal },
        }
    }

    /// The same where no socket could be had.
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
