//! The samples of `vpnhub_route_share`, which may be a hundred thousand: written without the library, whose labels and
//! numbers go through formatting machinery that costs several times the copied bytes. Both formats have the same text.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::GroupScrape;

pub const NAME: &str = "vpnhub_route_share";
/// The longest sample of IPv6 and a name of usual length.
pub const SAMPLE_BYTES: usize = 96;

/// Appends the samples of all groups.
pub fn write(text: &mut String, groups: &[GroupScrape]) {
    let mut ends = Vec::new();
    for GroupScrape { shares, destinations } in groups {
        if destinations.is_empty() {
            continue;
        }
        ends.clear();
        ends.extend(shares.iter().map(|(next_hop, share)| end(next_hop, *share)));
        for destination in destinations {
            let begin = text.len();
            text.push_str(NAME);
            text.push_str("{destination=\"");
            push_prefix(text, *destination);
            let same = begin..text.len();
            for (number, end) in ends.iter().enumerate() {
                if number > 0 {
                    text.extend_from_within(same.clone());
                }
                text.push_str(end);
            }
        }
    }
}

/// All that follows the destination. The value's shortest decimals are those of the library, for a share.
fn end(next_hop: &str, share: f64) -> String {
    let next_hop = next_hop.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let decimals = if share.fract() == 0.0 { ".0" } else { "" };
    format!("\",next_hop=\"{next_hop}\"}} {share}{decimals}\n")
}

fn push_prefix(text: &mut String, prefix: IpNet) {
    match prefix {
        IpNet::V4(prefix) => {
            for (number, octet) in prefix.addr().octets().into_iter().enumerate() {
                if number > 0 {
                    text.push('.');
                }
                push_number(text, octet);
            }
            text.push('/');
            push_number(text, prefix.prefix_len());
        }
        IpNet::V6(prefix) => write!(text, "{prefix}").expect("writing to a string cannot fail"),
    }
}

fn push_number(text: &mut String, number: u8) {
    let digit = |digit: u8| char::from(b'0' + digit);
    if number >= 100 {
        text.push(digit(number / 100));
    }
    if number >= 10 {
        text.push(digit(number / 10 % 10));
    }
    text.push(digit(number % 10));
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        collector::Collector,
        encoding::{DescriptorEncoder, EncodeMetric as _, prometheus_text, text},
        metrics::{MetricType, gauge::ConstGauge},
        registry::Registry,
    };

    use super::*;

    #[derive(Debug)]
    struct ByLibrary(Vec<GroupScrape>);

    impl Collector for ByLibrary {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
            let mut metric = encoder.encode_descriptor(NAME, "", None, MetricType::Gauge)?;
            for group in &self.0 {
                for destination in &group.destinations {
                    let destination = destination.to_string();
                    for (next_hop, share) in &group.shares {
                        let labels = [("destination", destination.as_str()), ("next_hop", next_hop.as_str())];
                        ConstGauge::new(*share).encode(metric.encode_family(&labels)?)?;
                    }
                }
            }
            Ok(())
        }
    }

    fn groups() -> Vec<GroupScrape> {
        let group = |shares: &[(&str, f64)], destinations: &[&str]| GroupScrape {
            shares: shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect(),
            destinations: destinations.iter().map(|prefix| prefix.parse().expect("a prefix")).collect(),
        };
        vec![
            group(&[("a", 0.5), ("b", 0.5)], &["10.0.0.0/8", "192.168.100.9/32", "0.0.0.0/0", "2001:db8::/32"]),
            group(&[("c/one", 1.0 / 3.0), ("d", 2.0 / 3.0), ("e", 0.0)], &["203.0.113.255/32"]),
            group(&[("f", 1.0), ("g", 1.0 / 65536.0)], &["::/0", "255.255.255.255/32"]),
            group(&[("a\\b\"c\nd", 0.1)], &["10.0.0.0/16"]),
            group(&[("none", 1.0)], &[]),
        ]
    }

    #[test]
    fn samples_are_those_that_the_library_writes() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ByLibrary(groups())));
        let mut found = String::new();
        write(&mut found, &groups());
        let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let (mut plain, mut open) = (String::new(), String::new());
        prometheus_text::encode(&mut plain, &registry).expect("a string");
        text::encode(&mut open, &registry).expect("a string");
        assert_eq!(found.trim_end(), samples(&plain));
        assert_eq!(found.trim_end(), samples(&open));
    }

    #[test]
    fn numbers_have_no_leading_zeros() {
        for number in 0..=u8::MAX {
            let mut text = String::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string());
        }
    }
}
