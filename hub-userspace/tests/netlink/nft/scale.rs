//! Thousands of sites.

use std::{net::Ipv4Addr, time::Instant};

use hub_userspace::kernel::netlink::{Guard, Ruleset};
use ipnet::{IpNet, Ipv4Net};

use super::{dump::table, local, ruleset, to};
use crate::lab::{in_namespace, net};

/// A name that begins with `to_`, in the dump.
const OUR_CHAIN: &str = "(02, [74, 6f, 5f, ";

/// Sites, each with `pairs` IPv4 prefixes and half as many IPv6 ones.
fn many(sites: u32, pairs: u32) -> Ruleset {
    let mut many = ruleset();
    for site in 0..sites {
        let name = format!("tun-{site}");
        many.sites.insert(name.clone());
        many.next_hops.insert((to(2 + site), name.clone()));
        for pair in 0..pairs {
            let address = Ipv4Addr::from(0x0a00_0000 + ((site * pairs + pair) << 8));
            let prefix = IpNet::V4(Ipv4Net::new(address, 24).unwrap());
            let output = many.output.entry(name.clone()).or_default();
            output.insert((net("192.168.0.0/16"), prefix));
            if pair % 2 == 1 {
                let prefix = net(&format!("2001:db8:{site:x}:{pair:x}::/64"));
                output.insert((net("fd00::/8"), prefix));
            }
        }
    }
    many
}

#[test]
fn thousands_of_sites_apply_in_one_batch_and_one_change_alone() {
    in_namespace(async |_lab| {
        for (sites, pairs) in [(8, 125), (8, 500), (1000, 2), (4000, 2), (4000, 8)] {
            let mut guard = Guard::open().await.unwrap();
            guard.remove().await.unwrap();
            let all = many(sites, pairs);
            let mut one_more = all.clone();
            one_more.next_hops.insert((local(), "site1".to_owned()));
            let mut one_pair_more = one_more.clone();
            one_pair_more.output.get_mut("tun-7").unwrap().insert((net("10.9.0.0/16"), net("10.8.0.0/16")));
            let mut times = Vec::new();
            for next in [&all, &one_more, &one_pair_more, &one_more] {
                let start = Instant::now();
                guard.apply(next).await.unwrap();
                times.push(start.elapsed());
            }
            // Everything again over the existing table.
            let start = Instant::now();
            guard = Guard::open().await.unwrap();
            guard.apply(&all).await.unwrap();
            times.push(start.elapsed());
            println!("{sites} sites, {pairs} pairs: from nothing, next hop, pair more, less, all again: {times:.1?}");

            let elements = |set: &str| table(&[set]).iter().filter(|line| line.starts_with(set)).count();
            let sites = sites as usize;
            assert_eq!(elements("sites"), sites + 2);
            assert_eq!(elements("next_hops"), sites + 3);
            assert_eq!(elements("selectors"), sites + 1);
            let rules_to_sites =
                table(&[]).iter().filter(|line| line.starts_with("7 ") && line.contains(OUR_CHAIN)).count();
            assert_eq!(rules_to_sites, sites * (pairs + pairs / 2) as usize + 3);
        }
    });
}
