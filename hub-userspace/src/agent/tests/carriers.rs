//! The interfaces of random connections.

use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::draw::{INTERFACES, is_ethernet};

/// This interface, and often another one: those of two tunnels.
pub fn carriers<'a>(random: &mut SmallRng, interface: &'a str) -> Vec<&'a str> {
    let others: Vec<&str> = INTERFACES.into_iter().filter(|other| *other != interface).collect();
    let second = if random.random_bool(0.3) { others.choose(random) } else { None };
    [interface].into_iter().chain(second.copied()).collect()
}

/// That of an interface.
pub fn if_id(interface: &str) -> usize {
    INTERFACES.iter().position(|name| *name == interface).expect("it is one of them") + 1
}

/// The keys of a connection's interface, or of its tunnels if it has several.
pub fn carried(random: &mut SmallRng, site: usize, carriers: &[&str], has_ipsec: bool) -> String {
    let peer = |carrier: &str, separator: &str| match is_ethernet(carrier) {
        true => format!("{separator}peer = \"169.254.1.{}\"", 10 + site),
        false => String::new(),
    };
    if let [only] = carriers {
        return format!("interface = \"{only}\"{}\n", peer(only, "\n"));
    }
    let mut tunnels = Vec::new();
    for (carrier, name) in carriers.iter().zip(["a", "b"]) {
        // Not every tunnel may be a standby.
        let weight = if name == "a" { 100 } else { *[0, 50, 100].choose(random).expect("there are some") };
        let ipsec = match has_ipsec {
            true => format!(", ipsec = {{ if_id = {}, remote_id = \"c{site}{name}\" }}", if_id(carrier)),
            false => String::new(),
        };
        let peer = peer(carrier, ", ");
        tunnels.push(format!("{{ name = \"{name}\", interface = \"{carrier}\", weight = {weight}{peer}{ipsec} }}"));
    }
    format!("tunnels = [{}]\n", tunnels.join(", "))
}
