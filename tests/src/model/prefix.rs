//! Prefixes.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether the address is in the prefix. Never across families.
pub fn contains(prefix: IpNet, address: IpAddr) -> bool {
    let (differing, width) = match (prefix.addr(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (u128::from(u32::from(network) ^ u32::from(address)), 32),
        (IpAddr::V6(network), IpAddr::V6(address)) => (u128::from(network) ^ u128::from(address), 128),
        _ => return false,
    };
    // u128 cannot be shifted by its full width, which the prefix of length 0 would need.
    differing.checked_shr(width - u32::from(prefix.prefix_len())).unwrap_or(0) == 0
}

pub fn same_family(a: IpNet, b: IpNet) -> bool {
    a.addr().is_ipv4() == b.addr().is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn prefix_contains_addresses_equal_in_its_bits() {
        let rows = [
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.0.0.1", false),
            ("10.1.2.128/25", "10.1.2.127", false),
            ("10.1.2.128/25", "10.1.2.128", true),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.2", false),
            ("fd00::/63", "fd00:0:0:1::1", true),
            ("fd00::/63", "fd00:0:0:2::1", false),
            ("fd00::1/128", "fd00::1", true),
        ];
        for (prefix, address, expected) in rows {
            assert_eq!(contains(prefix.parse().unwrap(), address.parse().unwrap()), expected, "{prefix} {address}");
        }
    }
}
