//! The kernel's complete dump of the table, as bytes: sorted, and without handles and similar attributes. It has its
//! own reader, so that it does not share bugs with the writer.

use std::collections::{BTreeMap, BTreeSet};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NFT_MSG_GET*`, and the attributes that depend on the table's history: handles, positions, numbers of users and
/// elements, and the kernel's location of a set's functions.
const CHAINS: (u8, &[u16]) = (4, &[2, 6]);
const RULES: (u8, &[u16]) = (7, &[3, 6]);
const SETS: (u8, &[u16]) = (10, &[16, 19, 20]);
const ELEMENTS: (u8, &[u16]) = (13, &[]);

/// One line per object: its kind, and its attributes.
pub fn table(sets: &[&str]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for (kind, passed_over) in [CHAINS, RULES, SETS] {
        let mut orders = BTreeMap::<_, usize>::new();
        for object in &dump(kind, None) {
            // The rules of a chain have an order, chains have none.
            let chain = attributes(object).into_iter().find(|(number, _)| kind == RULES.0 && *number == 2);
            let mut none = 0;
            let order = chain.map_or(&mut none, |(_, chain)| orders.entry(chain.to_owned()).or_default());
            lines.insert(format!("{kind} {order} {}", show(object, passed_over)));
            *order += 1;
        }
    }
    for set in sets {
        for object in dump(ELEMENTS.0, Some(set)) {
            let elements = attributes(&object).into_iter().find(|(kind, _)| *kind == 3);
            for (_, element) in elements.map(|(_, list)| attributes(list)).unwrap_or_default() {
                assert!(lines.insert(format!("{set} {element:02x?}")), "twice in {set}");
            }
        }
    }
    lines
}

fn show(object: &[u8], passed_over: &[u16]) -> String {
    let shown = attributes(object).into_iter().filter(|(kind, _)| !passed_over.contains(kind));
    format!("{:02x?}", shown.collect::<Vec<_>>())
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        found.push((u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff, &bytes[4..length]));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    found
}

/// The attributes of all objects of table `inet vpnhub`.
fn dump(kind: u8, set: Option<&str>) -> Vec<Vec<u8>> {
    let attribute = |number: u8, text: &str| {
        let length = 4 + text.len() + 1;
        let mut bytes = vec![length as u8, 0, number, 0];
        bytes.extend(text.as_bytes());
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    };
    let mut request = vec![0, 0, 0, 0, kind, 10, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    request.extend(attribute(1, "vpnhub"));
    request.extend(set.map(|set| attribute(2, set)).unwrap_or_default());
    request[0] = request.len() as u8;

    let socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.send_to(&request, &SocketAddr::new(0, 0), 0).unwrap();
    let mut objects = Vec::new();
    loop {
        let mut answer = Vec::with_capacity(64 << 10);
        socket.recv(&mut answer, 0).unwrap();
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                2 | 3 => return objects,
                _ if attributes(&rest[20..length]).contains(&(1, b"vpnhub\0")) => {
                    objects.push(rest[20..length].to_vec());
                }
                _ => {}
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}
