//! Tests of what the types of the kernel boundary report about their content.

use std::net::{IpAddr, Ipv6Addr};

use crate::abi::Addr;

fn is_v4(text: &str) -> bool {
    Addr::from(text.parse::<IpAddr>().expect(text)).is_v4()
}

#[test]
fn only_mapped_addresses_count_as_ipv4() {
    assert!(is_v4("10.0.0.1"));
    assert!(!is_v4("fd00::1"));
    // Cases in which only one of the first two words is zero, or both are equal.
    for front in ["1::", "0:0:1::", "1:2:1:2::"] {
        let front = u128::from(front.parse::<Ipv6Addr>().expect(front));
        let mapped = Ipv6Addr::from(front | 0xffff_0a00_0001);
        assert!(!is_v4(&mapped.to_string()), "{mapped}");
    }
}
