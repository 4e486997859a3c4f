//! Parses counters of the kernel.

use super::{
    super::{
        Counter,
        wire::{LIST_ELEMENT, attribute, attributes, big64, text},
    },
    present::{OBJECT_NAME, is_our_counter, name},
};

pub const OBJECT_DATA: u16 = 4;
/// `NFTA_COUNTER_*`.
pub const COUNTER_BYTES: u16 = 1;
pub const COUNTER_PACKETS: u16 = 2;

fn read_numbers(data: &[u8]) -> Counter {
    let number = |kind| attribute(data, kind).and_then(big64).unwrap_or_default();
    Counter { bytes: number(COUNTER_BYTES), packets: number(COUNTER_PACKETS) }
}

pub fn read_counter(object: &[u8]) -> Option<(String, Counter)> {
    is_our_counter(object).then(|| {
        (name(object, OBJECT_NAME).to_owned(), read_numbers(attribute(object, OBJECT_DATA).unwrap_or_default()))
    })
}

/// Parses the elements of an answer: `NFTA_SET_ELEM_KEY`, and the counter in `NFTA_SET_ELEM_EXPR`.
pub fn read_strangers(answer: &[u8]) -> Vec<(String, Counter)> {
    const ELEMENTS: u16 = 3;
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    const EXPRESSION: u16 = 7;
    const EXPRESSION_DATA: u16 = 2;
    let listed = attributes(attribute(answer, ELEMENTS).unwrap_or_default());
    listed
        .filter(|(kind, _)| *kind == LIST_ELEMENT)
        .filter_map(|(_, element)| {
            let interface = text(attribute(attribute(element, KEY)?, VALUE)?).to_owned();
            let counter = attribute(attribute(element, EXPRESSION)?, EXPRESSION_DATA)?;
            Some((interface, read_numbers(counter)))
        })
        .collect()
}
