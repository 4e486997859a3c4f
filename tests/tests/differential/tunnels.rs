//! Connections of a random world that have several tunnels.

use hub_tests::model::{Connection, World};
use rand::{
    Rng as _,
    rngs::SmallRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use crate::draw::{one_of, percent};

/// Replaces some connections by two to four tunnels each, in a third of the worlds. Each tunnel has an interface, and a
/// state of its own; the rest is the connection's. `interfaces` has the numbers of those that may carry sites.
pub fn draw(rng: &mut SmallRng, world: &mut World, interfaces: impl Iterator<Item = u32>) {
    if !percent(rng, 33) {
        return;
    }
    let interfaces: Vec<String> = interfaces.map(|index| format!("if{index}")).collect();
    let share = one_of(rng, &[20, 50, 100]);
    let connections = std::mem::take(&mut world.connections);
    for connection in connections {
        if !percent(rng, share) {
            world.connections.push(connection);
            continue;
        }
        let mut own = interfaces.clone();
        own.shuffle(rng);
        own.truncate(rng.random_range(2..=4));
        if percent(rng, 5) {
            "gone".clone_into(&mut own[0]);
        }
        let is_any_up = percent(rng, 85);
        for (number, interface) in own.into_iter().enumerate() {
            let peer = connection.peer.filter(|_| percent(rng, 80));
            // Few weights: the shares of all tunnels have a small common denominator.
            let weight = [0, 50, 100].choose(rng).copied();
            let name = format!("{}/t{number}", connection.name);
            let up = is_any_up && percent(rng, 60);
            world.connections.push(Connection {
                name,
                interface,
                tunnel_weight: weight,
                peer,
                up,
                ..connection.clone()
            });
        }
    }
}
