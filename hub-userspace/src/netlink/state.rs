use std::{collections::{BTreeMap, BTreeSet, HashMap}, net::IpAddr};
use ipnet::IpNet;
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    pub links: BTreeMap<u32, Link>,
    pub addresses: BTreeMap<u32, BTreeSet<IpNet>>,
    pub neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    pub gateways: BTreeMap<(u32, IpNet), IpAddr>,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Option<String>,
    pub ethernet: bool,
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub admin_up: bool,
    pub running: bool,
    pub vlan: Option<(u32, u16)>,
}
