//! Computes which xfrm interfaces to create and delete. Pure.

use std::collections::HashMap;

use imbl::{OrdMap, ordmap::DiffItem};
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoXfrm, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    },
};
use tracing::{debug, info};

use crate::kernel::netlink::SITES_GROUP;

/// `IFLA_IFALIAS` of our interfaces: a restarted agent recognizes them by it.
const ALIAS: &str = "vpnhub";

/// An xfrm interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfrmLink {
    /// Interface id of its policies and SAs; not 0.
    pub if_id: u32,
    /// Bytes.
    pub mtu: u32,
    /// An existing interface keeps its MTU: `mtu` is for a new one.
    pub keeps_mtu: bool,
}

/// By name. Copies share their data.
pub type XfrmLinks = OrdMap<String, XfrmLink>;

/// An existing interface: ours, or with a name that we need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundInterface {
    pub index: u32,
    pub name: String,
    pub ours: bool,
    pub up: bool,
    pub mtu: u32,
    pub if_id: Option<u32>,
}

/// One operation; they run in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceStep {
    Delete {
        index: u32,
        name: String,
    },
    Create {
        name: String,
        link: XfrmLink,
    },
    /// Sets alias and MTU, and sets the interface up.
    Set {
        name: String,
        mtu: u32,
    },
    /// Sets the MTU only.
    SetMtu {
        index: u32,
        name: String,
        mtu: u32,
    },
}

pub fn found(message: &LinkMessage) -> Option<FoundInterface> {
    let (mut name, mut mtu, mut ours, mut if_id) = (None, 0, false, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::IfAlias(value) => ours = value == ALIAS,
            LinkAttribute::LinkInfo(infos) => {
                let data = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Xfrm(data)) => Some(data),
                    _ => None,
                });
                if_id = data.into_iter().flatten().find_map(|info| match info {
                    InfoXfrm::IfId(id) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    // Ignore our alias on anything but an xfrm interface: another process set it.
    Some(FoundInterface { index: message.header.index, name: name?, ours: ours && if_id.is_some(), up, mtu, if_id })
}

/// Whether one of ours is still desired. Its `if_id` cannot be changed.
pub fn stays(desired: &XfrmLinks, found: &FoundInterface) -> bool {
    desired.get(&found.name).is_some_and(|link| found.if_id == Some(link.if_id))
}

/// The operations from the existing to the desired state.
pub fn steps(desired: &XfrmLinks, found: &[FoundInterface]) -> Vec<InterfaceStep> {
    let (mut steps, mut creations) = (Vec::new(), Vec::new());
    let by_name: HashMap<&str, &FoundInterface> = found.iter().map(|found| (found.name.as_str(), found)).collect();
    for gone in found.iter().filter(|found| found.ours && !stays(desired, found)) {
        steps.push(InterfaceStep::Delete { index: gone.index, name: gone.name.clone() });
    }
    for (name, link) in desired {
        match by_name.get(name.as_str()).copied() {
            // Others' interfaces are used unchanged.
            Some(found) if !found.ours => {}
            Some(found) if stays(desired, found) => {
                let mtu = if link.keeps_mtu { found.mtu } else { link.mtu };
                if !found.up || found.mtu != mtu {
                    creations.push(InterfaceStep::Set { name: name.clone(), mtu });
                }
            }
            _ => {
                creations.push(InterfaceStep::Create { name: name.clone(), link: *link });
                creations.push(InterfaceStep::Set { name: name.clone(), mtu: link.mtu });
            }
        }
    }
    steps.append(&mut creations);
    steps
}

/// The operations from one desired state, which is in force, to the next, if only MTUs differ: `None` if more does. No
/// other interface has to be looked at. `own` are the indices of our interfaces, by name.
pub fn mtu_steps(old: &XfrmLinks, new: &XfrmLinks, own: &HashMap<String, u32>) -> Option<Vec<InterfaceStep>> {
    let mut steps = Vec::new();
    for difference in old.diff(new) {
        let DiffItem::Update { old: (_, old), new: (name, new) } = difference else { return None };
        if old.if_id != new.if_id {
            return None;
        }
        if let Some(index) = own.get(name).filter(|_| !new.keeps_mtu) {
            steps.push(InterfaceStep::SetMtu { index: *index, name: name.clone(), mtu: new.mtu });
        }
    }
    Some(steps)
}

impl InterfaceStep {
    pub fn name(&self) -> &str {
        let (Self::Delete { name, .. }
        | Self::Create { name, .. }
        | Self::Set { name, .. }
        | Self::SetMtu { name, .. }) = self;
        name
    }

    pub fn log(&self) {
        match self {
            Self::Delete { name, .. } => info!(name: "xfrm_interface_removed", "interface {name} removed"),
            Self::Create { name, link } => {
                info!(name: "xfrm_interface_created", "xfrm interface {name} created, if_id {}", link.if_id);
            }
            Self::Set { .. } => {}
            Self::SetMtu { name, mtu, .. } => debug!("MTU of interface {name} set to {mtu}"),
        }
    }

    /// The message and its `NLM_F_*` flags.
    pub fn message(&self) -> (RouteNetlinkMessage, u16) {
        let mut message = LinkMessage::default();
        match self {
            Self::Delete { index, .. } => {
                message.header.index = *index;
                (RouteNetlinkMessage::DelLink(message), 0)
            }
            Self::Create { name, link } => {
                message.attributes = vec![
                    LinkAttribute::IfName(name.clone()),
                    // The nftables table then blocks it from the beginning.
                    LinkAttribute::Group(SITES_GROUP),
                    LinkAttribute::LinkInfo(vec![
                        LinkInfo::Kind(InfoKind::Xfrm),
                        LinkInfo::Data(InfoData::Xfrm(vec![InfoXfrm::IfId(link.if_id)])),
                    ]),
                ];
                (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            // The kernel accepts an alias only for an existing interface, not on creation (`do_setlink`,
            // net/core/rtnetlink.c).
            Self::Set { name, mtu } => {
                message.header.flags = LinkFlags::Up;
                message.header.change_mask = LinkFlags::Up;
                message.attributes = vec![
                    LinkAttribute::IfName(name.clone()),
                    LinkAttribute::IfAlias(ALIAS.to_owned()),
                    LinkAttribute::Mtu(*mtu),
                ];
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            // By index alone: a name would rename the interface.
            Self::SetMtu { index, mtu, .. } => {
                message.header.index = *index;
                message.attributes = vec![LinkAttribute::Mtu(*mtu)];
                (RouteNetlinkMessage::SetLink(message), 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkMessage;

    use super::*;

    fn xfrm(name: &str, index: u32, if_id: u32, ours: bool) -> FoundInterface {
        FoundInterface { index, name: name.into(), ours, up: true, mtu: 1400, if_id: Some(if_id) }
    }

    fn link(if_id: u32) -> XfrmLink {
        XfrmLink { if_id, mtu: 1400, keeps_mtu: false }
    }

    fn desired(links: &[(&str, u32)]) -> XfrmLinks {
        links.iter().map(|(name, if_id)| ((*name).to_owned(), link(*if_id))).collect()
    }

    #[test]
    fn interface_plan_changes_own_differing_links_only() {
        let set = |name: &str| InterfaceStep::Set { name: name.into(), mtu: 1400 };
        let create = |name: &str, if_id| InterfaceStep::Create { name: name.into(), link: link(if_id) };
        let delete = |name: &str, index| InterfaceStep::Delete { index, name: name.into() };
        let down = FoundInterface { up: false, ..xfrm("a", 5, 7, true) };
        let narrow = FoundInterface { mtu: 1280, ..xfrm("a", 5, 7, true) };
        let veth = FoundInterface { if_id: None, ..xfrm("a", 5, 0, false) };
        for (what, links, found, expected) in [
            ("new", &[("a", 7)][..], vec![], vec![create("a", 7), set("a")]),
            ("there", &[("a", 7)], vec![xfrm("a", 5, 7, true)], vec![]),
            ("there, and down", &[("a", 7)], vec![down], vec![set("a")]),
            ("another MTU", &[("a", 7)], vec![narrow], vec![set("a")]),
            ("another owner's", &[("a", 7)], vec![xfrm("a", 5, 7, false)], vec![]),
            ("another owner's, another if_id", &[("a", 7)], vec![xfrm("a", 5, 9, false)], vec![]),
            ("another kind's", &[("a", 7)], vec![veth], vec![]),
            (
                "two swap their names",
                &[("a", 7), ("b", 8)],
                vec![xfrm("a", 5, 8, true), xfrm("b", 6, 7, true)],
                vec![delete("a", 5), delete("b", 6), create("a", 7), set("a"), create("b", 8), set("b")],
            ),
            (
                "none desired any more",
                &[],
                vec![xfrm("a", 5, 7, true), xfrm("b", 6, 8, true)],
                vec![delete("a", 5), delete("b", 6)],
            ),
            ("no longer desired", &[], vec![xfrm("a", 5, 7, true), xfrm("b", 6, 8, false)], vec![delete("a", 5)]),
            ("another if_id", &[("a", 8)], vec![xfrm("a", 5, 7, true)], vec![delete("a", 5), create("a", 8), set("a")]),
            ("another name", &[("b", 7)], vec![xfrm("a", 5, 7, true)], vec![delete("a", 5), create("b", 7), set("b")]),
        ] {
            assert_eq!(steps(&desired(links), &found), expected, "{what}");
        }
    }

    #[test]
    fn adopted_interface_keeps_its_mtu_on_request() {
        let desired: XfrmLinks = [("a".to_owned(), XfrmLink { keeps_mtu: true, ..link(7) })].into_iter().collect();
        let wide = FoundInterface { mtu: 1446, ..xfrm("a", 5, 7, true) };
        assert_eq!(steps(&desired, std::slice::from_ref(&wide)), []);
        let down = FoundInterface { up: false, ..wide };
        assert_eq!(steps(&desired, &[down]), [InterfaceStep::Set { name: "a".into(), mtu: 1446 }]);
        let created = [
            InterfaceStep::Create { name: "a".into(), link: desired["a"] },
            InterfaceStep::Set { name: "a".into(), mtu: 1400 },
        ];
        assert_eq!(steps(&desired, &[]), created);
    }

    #[test]
    fn changed_mtus_are_set_by_index_alone() {
        let own = HashMap::from([("a".to_owned(), 5), ("b".to_owned(), 6)]);
        let old = desired(&[("a", 7), ("b", 8), ("others", 9)]);
        let with = |changes: &[(&str, XfrmLink)]| {
            let mut new = old.clone();
            new.extend(changes.iter().map(|(name, link)| ((*name).to_owned(), *link)));
            mtu_steps(&old, &new, &own)
        };
        let narrow = |if_id| XfrmLink { mtu: 1300, ..link(if_id) };
        assert_eq!(with(&[]), Some(vec![]));
        let step = InterfaceStep::SetMtu { index: 6, name: "b".into(), mtu: 1300 };
        assert_eq!(with(&[("b", narrow(8))]), Some(vec![step]));
        assert_eq!(with(&[("others", narrow(9))]), Some(vec![]), "others' interfaces are used unchanged");
        assert_eq!(with(&[("a", XfrmLink { keeps_mtu: true, ..narrow(7) })]), Some(vec![]));
        assert_eq!(with(&[("a", narrow(8))]), None, "another if_id");
        assert_eq!(with(&[("c", narrow(10))]), None, "a new interface");
        assert_eq!(mtu_steps(&old, &desired(&[("a", 7)]), &own), None, "one less");
    }

    #[test]
    fn interface_messages_have_exact_bytes() {
        let bytes = |step: &InterfaceStep| {
            let mut message = NetlinkMessage::from(step.message().0);
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            bytes
        };
        if cfg!(target_endian = "big") {
            return;
        }
        // struct nlmsghdr, struct ifinfomsg, then IFLA_IFNAME (3), IFLA_GROUP (27), IFLA_LINKINFO (18) with
        // IFLA_INFO_KIND (1) and IFLA_INFO_DATA (2), in which IFLA_XFRM_IF_ID (2).
        let create = bytes(&InterfaceStep::Create { name: "xf7".into(), link: link(7) });
        assert_eq!(create[4], 16, "RTM_NEWLINK");
        let mut expected = b"\x08\0\x03\0xf7\0\x08\0\x1b\0\x76\0\0\0".to_vec();
        expected.extend(b"\x1c\0\x12\0\x09\0\x01\0xfrm\0\0\0\0\x0c\0\x02\0\x08\0\x02\0\x07\0\0\0");
        let body = &create[32..];
        // The length of the kind may include its terminating zero or not.
        let without_end = b"\x18\0\x12\0\x08\0\x01\0xfrm\0\x0c\0\x02\0\x08\0\x02\0\x07\0\0\0";
        assert!(body == expected || body[16..] == without_end[..], "{body:02x?}");
        let set = bytes(&InterfaceStep::Set { name: "xf7".into(), mtu: 1400 });
        assert_eq!((set[4], &set[24..32]), (19, &[1, 0, 0, 0, 1, 0, 0, 0][..]), "RTM_SETLINK, IFF_UP");
        assert!(set[32..].starts_with(b"\x08\0\x03\0xf7\0") && set.ends_with(&[0x78, 5, 0, 0]), "{set:02x?}");
        let narrow = bytes(&InterfaceStep::SetMtu { index: 9, name: "xf7".into(), mtu: 1400 });
        assert_eq!(
            (narrow[4], narrow[20], &narrow[24..]),
            (19, 9, &[0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 4, 0, 0x78, 5, 0, 0][..])
        );
        let delete = bytes(&InterfaceStep::Delete { index: 9, name: "xf7".into() });
        assert_eq!((delete.len(), delete[4], delete[20]), (32, 17, 9), "RTM_DELLINK");
    }
}
