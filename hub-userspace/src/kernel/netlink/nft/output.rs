//! What the hub itself may send to each site: a chain for each interface, with one rule for each pair of prefixes. Pure.
//!
//! Not one set with the pairs of all interfaces: the kernel goes through such a set to delete an element
//! (`nft_pipapo_remove`), which takes tens of milliseconds with a thousand pairs, and peers cause deletions at will.

use std::collections::{BTreeSet, HashSet};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;

use super::{
    chains::Chain,
    rules::site_pair,
    sets::{self, Element, SELECTORS, interface},
    wire::{Messages, NftMessage},
};

/// The hub's side and the site's, by the interface's name.
pub type Output = OrdMap<String, BTreeSet<(IpNet, IpNet)>>;

/// Distinguishes these chains from all others of the table.
const PREFIX: &str = "to_";

fn chain_of(interface: &str) -> String {
    format!("{PREFIX}{interface}")
}

pub fn is_of_site(chain: &str) -> bool {
    chain.starts_with(PREFIX)
}

/// The element that leads to the interface's chain. `None` if the name is invalid.
fn element(name: &str) -> Option<Element> {
    interface(name).map(|key| Element::jump(key.into(), chain_of(name)))
}

/// The elements of [`SELECTORS`].
pub fn elements(output: &Output) -> BTreeSet<Element> {
    output.keys().filter_map(|name| element(name)).collect()
}

/// Names of all chains.
pub fn chains(output: &Output) -> HashSet<String> {
    output.keys().filter(|name| interface(name).is_some()).map(|name| chain_of(name)).collect()
}

/// Writes all chains with their rules. Existing ones must be without rules.
pub fn write_chains(messages: &mut Messages, output: &Output) {
    for (name, pairs) in output {
        write_chain(messages, name, pairs);
    }
}

/// Writes the difference. The rules of a chain are replaced at once for every packet.
pub fn write_changes(messages: &mut Messages, before: &Output, after: &Output) {
    let (mut new, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for difference in before.diff(after) {
        match difference {
            DiffItem::Add(name, pairs) => {
                write_chain(messages, name, pairs);
                new.extend(element(name));
            }
            DiffItem::Update { new: (name, pairs), .. } => {
                if interface(name).is_some() {
                    messages.message(NftMessage::DeleteRule, 0, |message| message.string(2, &chain_of(name)));
                }
                write_chain(messages, name, pairs);
            }
            DiffItem::Remove(name, _) => gone.extend(element(name)),
        }
    }
    // A chain in use cannot be deleted.
    sets::change(messages, NftMessage::DeleteElement, SELECTORS.name, &gone);
    sets::change(messages, NftMessage::NewElement, SELECTORS.name, &new);
    for element in &gone {
        Chain::delete(element.chain(), messages);
    }
}

fn write_chain(messages: &mut Messages, name: &str, pairs: &BTreeSet<(IpNet, IpNet)>) {
    if interface(name).is_none() {
        return;
    }
    let chain = chain_of(name);
    Chain::create_regular(&chain, messages);
    for (hub, site) in pairs {
        site_pair(messages, &chain, *hub, *site);
    }
}
