//! Costs, their ratios, and which targets they reach.

use serde_json::Value;

use super::{lab::Forwarder, tunnels::Encryption};
use crate::{
    forward::{results::median, routes::Family},
    rows::Results,
};

/// The hub's cost ÷ that of `ip_forward`, with AES-GCM and the smallest packets.
const TO_KERNEL: f64 = 0.90;
/// The hub's cost ÷ that of `bare-tc`.
const TO_BARE: f64 = 1.025;
/// The hub's cost with any number of attachments ÷ that with the fewest.
const TO_FEWEST: f64 = 1.01;
/// The hub's TCP throughput ÷ that of `ip_forward`.
const TCP: f64 = 1.0;

/// What all contenders of a comparison have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition {
    pub encryption: Encryption,
    pub family: Family,
    pub bytes: usize,
    pub attachments: u32,
}

/// Of one forwarder under one condition.
#[derive(Clone)]
pub struct Found {
    pub condition: Condition,
    pub forwarder: Forwarder,
    /// Of a packet on the whole path, in each round.
    pub path: Vec<f64>,
    /// Of a packet on the last link and at the second site, in each round.
    pub site: Vec<f64>,
    /// Of a packet in programs at TC.
    pub program: Option<f64>,
}

impl Found {
    /// Cost of a packet at the hub in each round: the whole path without the last link and the site.
    fn costs(&self) -> Vec<f64> {
        let site = median(&self.site).unwrap_or_default();
        self.path.iter().map(|path| path - site).collect()
    }

    fn cost(&self) -> Option<f64> {
        median(&self.costs())
    }
}

/// TCP through one forwarder.
pub struct Bulk {
    pub forwarder: Forwarder,
    pub encryption: Encryption,
    pub attachments: u32,
    /// Of a byte, in each round.
    pub costs: Vec<f64>,
    /// Mean size of the packets that the hub sends to the second site.
    pub sizes: Vec<f64>,
}

/// `unit` is what the clock counts.
pub fn report(results: &mut Results, unit: &'static str, found: &[Found], bulk: &[Bulk]) {
    for one in found {
        let Condition { encryption, family, bytes, attachments } = one.condition;
        let case: [(&str, Value); 5] = [
            ("program", one.forwarder.name().into()),
            ("encryption", encryption.name().into()),
            ("family", family.number().into()),
            ("packet_bytes", bytes.into()),
            ("attachments", attachments.into()),
        ];
        results.add(&case, "packet at the hub", unit, one.costs());
        results.add(&case, "packet with sites", unit, one.path.iter().copied());
        results.add(&case, "of it TC programs", unit, one.program);
        let ratio = |to| Some(one.cost()? / cost(found, one.condition, to)?);
        results.add(&case, "ratio to ip_forward", "", ratio(Forwarder::Kernel));
        results.add(&case, "ratio to bare-tc", "", ratio(Forwarder::Bare));
    }
    for one in bulk {
        let case: [(&str, Value); 3] = [
            ("program", one.forwarder.name().into()),
            ("encryption", one.encryption.name().into()),
            ("attachments", one.attachments.into()),
        ];
        results.add(&case, "TCP, a byte", unit, one.costs.iter().copied());
        results.add(&case, "TCP, packets sent on", "bytes", one.sizes.iter().copied());
    }
    targets(results, found);
    bulk_targets(results, bulk);
}

fn cost(found: &[Found], condition: Condition, forwarder: Forwarder) -> Option<f64> {
    found.iter().find(|one| one.condition == condition && one.forwarder == forwarder)?.cost()
}

fn targets(results: &mut Results, found: &[Found]) {
    let hubs = || found.iter().filter(|one| one.forwarder == Forwarder::Hub);
    let smallest = found.iter().map(|one| one.condition.bytes).min().unwrap_or_default();
    for hub in hubs() {
        let Condition { encryption, family, bytes, attachments } = hub.condition;
        let name =
            format!("{}, IPv{}, {bytes} bytes, {attachments} attachments: hub", encryption.name(), family.number());
        let mut target = |to, limit| {
            let other = cost(found, hub.condition, to);
            if let (Some(hub), Some(other)) = (hub.cost(), other) {
                let ratio = hub / other;
                results.target(format!("{name} ÷ {} at most {limit}; {ratio:.4}", to.name()), ratio <= limit);
            }
        };
        target(Forwarder::Bare, TO_BARE);
        if (encryption, bytes) == (Encryption::AesGcm, smallest) {
            target(Forwarder::Kernel, TO_KERNEL);
        }
        let fewest = hubs()
            .filter(|one| Condition { attachments, ..one.condition } == hub.condition)
            .min_by_key(|one| one.condition.attachments);
        let Some(fewest) = fewest.filter(|one| one.condition.attachments < attachments) else { continue };
        if let (Some(most), Some(least)) = (hub.cost(), fewest.cost()) {
            let (ratio, few) = (most / least, fewest.condition.attachments);
            results.target(format!("{name} ÷ with {few} at most {TO_FEWEST}; {ratio:.4}"), ratio <= TO_FEWEST);
        }
    }
}

fn bulk_targets(results: &mut Results, bulk: &[Bulk]) {
    for hub in bulk.iter().filter(|one| one.forwarder == Forwarder::Hub) {
        let same = |one: &&Bulk| {
            (one.forwarder, one.encryption, one.attachments) == (Forwarder::Kernel, hub.encryption, hub.attachments)
        };
        let kernel = bulk.iter().find(same).and_then(|one| median(&one.costs));
        if let (Some(hub_cost), Some(kernel)) = (median(&hub.costs), kernel) {
            let ratio = kernel / hub_cost;
            let name = format!("{}, {} attachments, TCP throughput", hub.encryption.name(), hub.attachments);
            results.target(format!("{name}: hub ÷ ip_forward at least {TCP}; {ratio:.4}"), ratio >= TCP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONDITION: Condition =
        Condition { encryption: Encryption::AesGcm, family: Family::V4, bytes: 36, attachments: 2 };

    fn found(forwarder: Forwarder, condition: Condition, path: f64) -> Found {
        Found { condition, forwarder, path: vec![path - 5.0, path, path + 50.0], site: vec![10_000.0], program: None }
    }

    fn reached(found: &[Found], bulk: &[Bulk]) -> Vec<(String, bool)> {
        let mut results = Results::new("ipsec");
        report(&mut results, "instructions", found, bulk);
        results.targets.into_iter().map(|target| (target.what, target.reached)).collect()
    }

    #[test]
    fn ratios_exclude_sites_and_use_medians() {
        let rows = [
            found(Forwarder::Kernel, CONDITION, 30_000.0),
            found(Forwarder::Bare, CONDITION, 27_000.0),
            found(Forwarder::Hub, CONDITION, 27_500.0),
        ];
        let mut results = Results::new("ipsec");
        report(&mut results, "instructions", &rows, &[]);
        let median = |program: &str, measure: &str| {
            let row = results.rows.iter().find(|row| row.case["program"] == program && row.measure == measure);
            row.unwrap().summary.median
        };
        assert_eq!((median("hub", "packet at the hub"), median("hub", "packet with sites")), (17_500.0, 27_500.0));
        assert!((median("hub", "ratio to ip_forward") - 0.875).abs() < 1e-9);
        let targets: Vec<_> = results.targets.iter().map(|target| (target.what.as_str(), target.reached)).collect();
        let name = "aes-gcm, IPv4, 36 bytes, 2 attachments: hub ÷ ";
        assert_eq!(
            targets,
            [
                (&*format!("{name}bare-tc at most 1.025; 1.0294"), false),
                (&*format!("{name}ip_forward at most 0.9; 0.8750"), true)
            ]
        );
    }

    #[test]
    fn more_attachments_are_compared_with_fewest_of_same_condition() {
        let hub = |attachments, bytes, path| found(Forwarder::Hub, Condition { bytes, attachments, ..CONDITION }, path);
        let rows = [hub(2, 36, 20_000.0), hub(2, 1372, 30_000.0), hub(100, 36, 20_100.0), hub(1000, 36, 20_101.0)];
        let name = |count| format!("aes-gcm, IPv4, 36 bytes, {count} attachments: hub ÷ with 2 at most 1.01; ");
        let expected = [(name(100) + "1.0100", true), (name(1000) + "1.0101", false)];
        assert_eq!(reached(&rows, &[]), expected);
    }

    #[test]
    fn kernel_target_concerns_smallest_encrypted_packets_only() {
        let pair = |encryption, bytes| {
            let condition = Condition { encryption, bytes, ..CONDITION };
            [found(Forwarder::Kernel, condition, 20_000.0), found(Forwarder::Hub, condition, 19_500.0)]
        };
        let rows: Vec<_> = [(Encryption::AesGcm, 36), (Encryption::AesGcm, 1372), (Encryption::Null, 36)]
            .map(|(e, b)| pair(e, b))
            .concat();
        let expected =
            [("aes-gcm, IPv4, 36 bytes, 2 attachments: hub ÷ ip_forward at most 0.9; 0.9500".to_owned(), false)];
        assert_eq!(reached(&rows, &[]), expected);
    }

    #[test]
    fn tcp_target_compares_throughputs() {
        let bulk = |forwarder, cost| Bulk {
            forwarder,
            encryption: Encryption::Null,
            attachments: 2,
            costs: vec![cost],
            sizes: vec![40_000.0],
        };
        let rows = [bulk(Forwarder::Kernel, 8.0), bulk(Forwarder::Hub, 10.0)];
        let expected = [("null, 2 attachments, TCP throughput: hub ÷ ip_forward at least 1; 0.8000".to_owned(), false)];
        assert_eq!(reached(&[], &rows), expected);
    }
}
