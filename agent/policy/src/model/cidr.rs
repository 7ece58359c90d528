//! Parsing of the CIDRs in manifests. An error states the value and what is wrong with it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error as _};

struct Cidr(IpNet);

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.parse().map(Self);
        parsed.map_err(|_| D::Error::custom(format!("{text:?} is not a CIDR: {}", fault(&text))))
    }
}

/// Parses one CIDR, for `deserialize_with`.
pub(super) fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    Cidr::deserialize(deserializer).map(|Cidr(net)| net)
}

/// Parses a list of CIDRs; an error's path ends with the index of the invalid one.
pub(super) fn many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let all = Vec::<Cidr>::deserialize(deserializer)?;
    Ok(all.into_iter().map(|Cidr(net)| net).collect())
}

/// Explains what is wrong with a text that doesn't parse. The parser itself reports every fault
/// as an invalid address.
fn fault(text: &str) -> String {
    let Some((address, length)) = text.split_once('/') else {
        return "it has no prefix length, such as /32".into();
    };
    match address.parse() {
        Err(_) => format!("{address:?} is not an IP address"),
        Ok(IpAddr::V4(_)) => format!("prefix length {length:?} is not in 0..=32"),
        Ok(IpAddr::V6(_)) => format!("prefix length {length:?} is not in 0..=128"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        match serde_json::from_value::<Cidr>(text.into()) {
            Err(error) => error.to_string(),
            Ok(Cidr(net)) => panic!("{net}"),
        }
    }

    #[test]
    fn an_error_names_the_value_and_the_part_that_is_at_fault() {
        for (text, expected) in [
            ("10.0.0.0/33", "prefix length \"33\" is not in 0..=32"),
            ("fd00::/129", "prefix length \"129\" is not in 0..=128"),
            ("10.0.0.0/", "prefix length \"\" is not in 0..=32"),
            ("10.0.0.256/8", "\"10.0.0.256\" is not an IP address"),
            ("10.0.0.0", "it has no prefix length, such as /32"),
        ] {
            assert_eq!(message(text), format!("{text:?} is not a CIDR: {expected}"));
        }
    }

    #[test]
    fn a_cidr_with_host_bits_is_kept_as_it_is() {
        let Cidr(net) = serde_json::from_value("10.1.2.3/8".into()).expect("a CIDR");
        assert_eq!(net.to_string(), "10.1.2.3/8");
    }
}
