//! The links of the host, found by index and by name.

use std::ops::Index;

use imbl::{OrdMap, ordmap::DiffItem};
use serde::{Deserialize, Serialize};

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`: "veth", "xfrm", ...; `None` for hardware.
    pub kind: Option<String>,
    /// Whether frames have an Ethernet header (`ARPHRD_ETHER`); otherwise packets start at the IP header.
    pub ethernet: bool,
    /// Link address, when it has 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// In bytes, without link header.
    pub mtu: u32,
    /// `IFF_UP`: administratively up.
    pub admin_up: bool,
    /// Carries packets: `IFF_LOWER_UP`, and the operational state is up or unknown (tunnels report none).
    pub running: bool,
    /// For an 802.1Q interface: the index of its lower interface in this namespace, and the VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// For an xfrm interface: the interface id of its policies and SAs (`IFLA_XFRM_IF_ID`).
    pub if_id: Option<u32>,
    /// Kind of the device that it is a port of (`IFLA_INFO_SLAVE_KIND`): "bridge", "bond", ...
    #[serde(default)]
    pub port_kind: Option<String>,
}

impl Link {
    /// Whether both differ at most in being up.
    pub fn is_alike(&self, other: &Self) -> bool {
        *self == Self { admin_up: self.admin_up, running: self.running, ..other.clone() }
    }
}

/// The links by interface index, with an index of their names. Copies share their data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    by_index: OrdMap<u32, Link>,
    /// While renames are reported one by one, two links may briefly have the same name: the later one has the entry.
    by_name: OrdMap<String, u32>,
}

impl Links {
    pub fn get(&self, index: &u32) -> Option<&Link> {
        self.by_index.get(index)
    }

    pub fn named(&self, name: &str) -> Option<&Link> {
        self.by_name.get(name).and_then(|index| self.by_index.get(index))
    }

    pub fn contains_key(&self, index: &u32) -> bool {
        self.by_index.contains_key(index)
    }

    pub fn len(&self) -> usize {
        self.by_index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }

    /// In order of their indices.
    pub fn keys(&self) -> impl Iterator<Item = &u32> {
        self.by_index.keys()
    }

    /// In order of their indices.
    pub fn values(&self) -> impl Iterator<Item = &Link> {
        self.by_index.values()
    }

    /// Adds a link, or replaces the one with this index.
    pub fn insert(&mut self, link: Link) {
        let (index, name) = (link.index, link.name.clone());
        let old = self.by_index.insert(index, link);
        if let Some(old) = old.filter(|old| old.name != name) {
            self.forget_name(&old);
        }
        self.by_name.insert(name, index);
    }

    pub fn remove(&mut self, index: &u32) -> Option<Link> {
        let link = self.by_index.remove(index)?;
        self.forget_name(&link);
        Some(link)
    }

    /// Changes a link, if it exists.
    pub fn change(&mut self, index: u32, change: impl FnOnce(&mut Link)) {
        if let Some(mut link) = self.by_index.get(&index).cloned() {
            change(&mut link);
            self.insert(link);
        }
    }

    /// The differences, in time proportional to their number.
    pub fn diff<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = DiffItem<'a, 'a, u32, Link>> {
        self.by_index.diff(&newer.by_index)
    }

    fn forget_name(&mut self, link: &Link) {
        if self.by_name.get(&link.name) == Some(&link.index) {
            self.by_name.remove(&link.name);
        }
    }
}

impl Index<&u32> for Links {
    type Output = Link;

    fn index(&self, index: &u32) -> &Link {
        &self.by_index[index]
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<T: IntoIterator<Item = Link>>(links: T) -> Self {
        let mut all = Self::default();
        links.into_iter().for_each(|link| all.insert(link));
        all
    }
}
