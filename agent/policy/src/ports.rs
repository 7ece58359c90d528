//! Sets of ports, and how a port is written.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ringfence_ebpf::abi::{PortBlock, PortSet};
use serde::{Serialize, Serializer};

use crate::model::Protocol;

/// A set of ports per protocol, in canonical form: equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Ports {
    /// Everything, ICMP and unknown protocols too; the rest is then empty.
    all: bool,
    /// Protocols with all ports, as bits of [`PortSet`].
    whole: u32,
    /// Inclusive, sorted, disjoint, not adjacent ranges by IANA protocol number.
    ranges: Ranges,
}

/// Single ports of a set.
pub(crate) type Ranges = BTreeMap<u8, Vec<(u16, u16)>>;

fn whole_bit(protocol: u8) -> u32 {
    match protocol {
        6 => PortSet::ALL_TCP,
        17 => PortSet::ALL_UDP,
        132 => PortSet::ALL_SCTP,
        _ => 0,
    }
}

impl Ports {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// All ports of a protocol.
    pub(crate) fn whole(protocol: Protocol) -> Self {
        Self {
            whole: whole_bit(protocol.iana()),
            ..Self::default()
        }
    }

    /// An inclusive range.
    pub(crate) fn range(protocol: Protocol, first: u16, last: u16) -> Self {
        Self {
            ranges: BTreeMap::from([(protocol.iana(), vec![(first, last)])]),
            ..Self::default()
        }
    }

    /// One port.
    pub(crate) fn one(protocol: Protocol, port: u16) -> Self {
        Self::range(protocol, port, port)
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.whole == 0 && self.ranges.is_empty()
    }

    /// Adds another set's ports.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.all || other.all {
            *self = Self::all();
            return;
        }
        self.whole |= other.whole;
        for (protocol, ranges) in &other.ranges {
            let mine = self.ranges.entry(*protocol).or_default();
            mine.extend(ranges);
            normalize(mine);
        }
        let whole = self.whole;
        self.ranges.retain(|p, _| whole_bit(*p) & whole == 0);
    }

    /// Whether it holds a port of an IANA protocol.
    pub(crate) fn contains(&self, protocol: u8, port: u16) -> bool {
        let within = |ranges: &Vec<(u16, u16)>| ranges.iter().any(|r| (r.0..=r.1).contains(&port));
        self.all
            || self.whole & whole_bit(protocol) != 0
            || self.ranges.get(&protocol).is_some_and(within)
    }

    /// The id of the set, given the id of its single ports.
    pub(crate) fn id(&self, blocks: u32) -> u32 {
        if self.all {
            return PortSet::ALL;
        }
        blocks | self.whole
    }

    /// The single ports, what maps hold in blocks.
    pub(crate) fn ranges(&self) -> &Ranges {
        &self.ranges
    }
}

/// The blocks of single ports, by protocol and block number.
pub(crate) fn blocks(ranges: &Ranges) -> BTreeMap<(u16, u16), PortBlock> {
    let mut blocks: BTreeMap<_, PortBlock> = BTreeMap::new();
    for (protocol, ranges) in ranges {
        for port in ranges.iter().flat_map(|r| r.0..=r.1) {
            let key = (u16::from(*protocol), port >> 8);
            blocks.entry(key).or_default().insert(port);
        }
    }
    blocks
}

fn normalize(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges.iter() {
        match merged.last_mut() {
            Some(l) if u32::from(first) <= u32::from(l.1) + 1 => l.1 = l.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    *ranges = merged;
}

/// A protocol and port as a person writes them: `TCP/8080`, `UDP/53`, `SCTP/1`, `ICMP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// IANA protocol number; ICMP stands for ICMPv6 as well.
    pub protocol: u8,
    /// Port, 0 for ICMP.
    pub port: u16,
}

impl PortSpec {
    /// The protocol, if it is one with ports.
    pub(crate) fn with_ports(&self) -> Option<Protocol> {
        Protocol::ALL
            .into_iter()
            .find(|p| p.iana() == self.protocol)
    }
}

/// What is wrong with a port that a person wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port: write TCP/8080, UDP/53, SCTP/1 or ICMP")]
pub struct PortSpecError(String);

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fault = || PortSpecError(s.to_owned());
        if s.eq_ignore_ascii_case("icmp") {
            return Ok(Self {
                protocol: 1,
                port: 0,
            });
        }
        let (protocol, port) = s.split_once('/').ok_or_else(fault)?;
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(fault()),
        };
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self {
                protocol: protocol.iana(),
                port,
            }),
            _ => Err(fault()),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            6 => write!(f, "TCP/{}", self.port),
            17 => write!(f, "UDP/{}", self.port),
            132 => write!(f, "SCTP/{}", self.port),
            _ => f.write_str("ICMP"),
        }
    }
}

impl Serialize for PortSpec {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_and_overlapping_ranges_become_one() {
        let mut ports = Ports::range(Protocol::Tcp, 1, 10);
        ports.add(&Ports::range(Protocol::Tcp, 20, 30));
        ports.add(&Ports::range(Protocol::Tcp, 11, 19));
        assert_eq!(ports, Ports::range(Protocol::Tcp, 1, 30));
        ports.add(&Ports::range(Protocol::Tcp, 65_535, 65_535));
        assert!(ports.contains(6, 65_535) && !ports.contains(6, 31) && !ports.contains(17, 1));
    }

    #[test]
    fn a_whole_protocol_swallows_its_ports_and_everything_swallows_all() {
        let mut ports = Ports::one(Protocol::Udp, 53);
        ports.add(&Ports::whole(Protocol::Udp));
        assert_eq!(ports, Ports::whole(Protocol::Udp));
        assert!(!ports.contains(1, 0));
        ports.add(&Ports::all());
        assert_eq!(ports, Ports::all());
        assert!(ports.contains(1, 0));
    }

    #[test]
    fn a_range_reaches_across_blocks() {
        let ports = Ports::range(Protocol::Tcp, 250, 600);
        let blocks = blocks(ports.ranges());
        assert_eq!(blocks.len(), 3);
        for port in 0..1000_u16 {
            let block = blocks.get(&(6, port >> 8));
            let held = block.is_some_and(|b| b.contains(port));
            assert_eq!(held, (250..=600).contains(&port), "{port}");
        }
    }

    #[test]
    fn ports_are_written_as_protocol_slash_number() {
        for text in ["TCP/8080", "UDP/53", "SCTP/1", "ICMP"] {
            let spec: PortSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), text);
        }
        for text in ["", "TCP", "TCP/0", "TCP/65536", "8080", "GRE/1", "TCP/http"] {
            assert!(text.parse::<PortSpec>().is_err(), "{text}");
        }
    }
}
