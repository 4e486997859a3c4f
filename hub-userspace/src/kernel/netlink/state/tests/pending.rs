//! Neighbours that do not answer, and addresses that cannot be used yet.

use rtnetlink::packet_route::{address::AddressFlags, neighbour::NeighbourExtFlags};

use super::*;

fn neighbour(state: NeighbourState, managed: bool) -> RouteNetlinkMessage {
    let mut message = neighbour_message(1, "10.0.0.2", state);
    if managed {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    RouteNetlinkMessage::NewNeighbour(message)
}

/// Applies a message; returns whether the set of failed neighbours changed.
fn changes_failed(state: &mut HostState, message: &RouteNetlinkMessage) -> bool {
    let mut changes = Changes::default();
    state.apply_object(message, false, &mut changes);
    changes.failed
}

#[test]
fn managed_neighbour_without_an_answer_has_failed_until_it_answers() {
    let mut state = HostState::default();
    let address = "10.0.0.2".parse().unwrap();
    assert!(!changes_failed(&mut state, &neighbour(NeighbourState::Failed, false)), "the agent does not rely on it");
    assert!(changes_failed(&mut state, &neighbour(NeighbourState::Failed, true)) && state.has_failed(1, address));
    assert!(!changes_failed(&mut state, &neighbour(NeighbourState::Incomplete, true)) && state.has_failed(1, address));
    assert!(changes_failed(&mut state, &neighbour(NeighbourState::Reachable, true)) && !state.has_failed(1, address));
    changes_failed(&mut state, &neighbour(NeighbourState::Failed, true));
    let gone = RouteNetlinkMessage::DelNeighbour(neighbour_message(1, "10.0.0.2", NeighbourState::Failed));
    assert!(changes_failed(&mut state, &gone) && !state.has_failed(1, address));
}

#[test]
fn address_is_usable_after_duplicate_address_detection() {
    let mut state = HostState::default();
    let net: IpNet = "fd00::1/64".parse().unwrap();
    let mut message = address_message(1, "fd00::1/64");
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Tentative));
    let mut changes = Changes::default();
    state.apply_object(&RouteNetlinkMessage::NewAddress(message), false, &mut changes);
    assert!(changes.addresses && !state.is_usable(1, net));
    let mut changes = Changes::default();
    state.apply_object(&new_address(1, "fd00::1/64"), false, &mut changes);
    assert!(changes.addresses && state.is_usable(1, net));
}
