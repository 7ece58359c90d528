//! Address prefixes in the single 128-bit form that the tables use.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use ringfence_ebpf::abi::Addr;

/// An address with the bits beyond the length cleared, and a length in 0..=128.
pub(crate) type Prefix = (Addr, u8);

/// Every IPv4 address.
pub(crate) const V4_ROOT: Prefix = (Addr::v4([0; 4]), 96);
/// Every address of the 128-bit form, and so every IPv6 address.
pub(crate) const V6_ROOT: Prefix = (Addr::UNSPECIFIED, 0);

/// Returns the prefix of a block.
pub(crate) fn of(net: &IpNet) -> Prefix {
    let len = match net {
        IpNet::V4(n) => 96 + n.prefix_len(),
        IpNet::V6(n) => n.prefix_len(),
    };
    (Addr::from(net.network()), len)
}

/// Returns the block of a prefix; `None` if the prefix spans both address families.
pub(crate) fn net((addr, len): &Prefix) -> Option<IpNet> {
    let ip = IpAddr::from(*addr);
    let bits = if ip.is_ipv4() { 96 } else { 0 };
    IpNet::new(ip, len.checked_sub(bits)?).ok()
}

/// Returns the last address of a prefix.
pub(crate) fn last((addr, len): &Prefix) -> Addr {
    let host_bits = match len {
        0 => u128::MAX,
        128 => 0,
        len => u128::MAX >> len,
    };
    Addr::v6((u128::from_be_bytes(addr.octets()) | host_bits).to_be_bytes())
}

/// Returns the key range of all prefixes within one, including itself.
pub(crate) fn within(prefix: &Prefix) -> RangeInclusive<Prefix> {
    *prefix..=(last(prefix), 128)
}

/// Returns the first `len` bits of an address, with the others cleared.
pub(crate) fn mask(addr: &Addr, len: u8) -> Addr {
    let bits = u128::from_be_bytes(addr.octets());
    let kept = match len {
        0 => 0,
        len => bits & (u128::MAX << (128 - u32::from(len.min(128)))),
    };
    Addr::v6(kept.to_be_bytes())
}

/// Returns the longest entry of at most `max` bits that covers an address.
///
/// Walks down from the greatest key not above the address. Each key between that one and a
/// covering prefix shares fewer bits with the address than the last, so few look-ups are needed
/// rather than one per length.
pub(crate) fn longest<'a, V>(
    map: &'a BTreeMap<Prefix, V>,
    addr: &Addr,
    max: u8,
) -> Option<(&'a Prefix, &'a V)> {
    let mut key = (mask(addr, max), max);
    loop {
        let found = map.range(..=key).next_back()?;
        let (at, len) = *found.0;
        let common = shared(&at, addr);
        if common >= len {
            return Some(found);
        }
        key = (mask(addr, common), common);
    }
}

/// Returns the number of leading bits two addresses share.
fn shared(a: &Addr, b: &Addr) -> u8 {
    let differ = u128::from_be_bytes(a.octets()) ^ u128::from_be_bytes(b.octets());
    u8::try_from(differ.leading_zeros()).unwrap_or(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> Prefix {
        of(&s.parse().expect(s))
    }

    fn naive<'a>(map: &'a BTreeMap<Prefix, ()>, addr: &Addr, max: u8) -> Option<&'a Prefix> {
        let mut lengths = (0..=max).rev();
        lengths.find_map(|l| map.get_key_value(&(mask(addr, l), l)).map(|(p, ())| p))
    }

    #[test]
    fn the_longest_prefix_is_found_among_nested_and_neighbouring_ones() {
        let mut map = BTreeMap::new();
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.128/25",
            "10.2.0.0/16",
            "192.168.0.0/30",
            "::/0",
            "fd00::/8",
            "fd00:1::/32",
            "fd00:1::7/128",
        ] {
            map.insert(net(text), ());
        }
        for text in [
            "10.1.2.3",
            "10.1.2.200",
            "10.1.3.1",
            "10.3.0.1",
            "11.0.0.1",
            "192.168.0.3",
            "192.168.0.4",
            "fd00:1::7",
            "fd00:1::8",
            "fd00:2::1",
            "2001:db8::1",
            "0.0.0.0",
        ] {
            let ip: IpAddr = text.parse().expect(text);
            let addr = Addr::from(ip);
            for max in [0, 32, 95, 96, 104, 127, 128] {
                let fast = longest(&map, &addr, max).map(|(p, ())| p);
                assert_eq!(fast, naive(&map, &addr, max), "{text} at most {max}");
            }
        }
    }

    #[test]
    fn ipv4_prefixes_lie_below_the_mapped_root() {
        assert_eq!(net("0.0.0.0/0"), V4_ROOT);
        assert_eq!(net("::/0"), V6_ROOT);
        assert_eq!(net("10.0.0.0/8").1, 104);
    }
}
