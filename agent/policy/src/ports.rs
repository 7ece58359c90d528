//! Sets of ports, and how a port is written.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ringfence_ebpf::abi::{PortBlock, PortSet};
use serde::{Serialize, Serializer};

use crate::model::{PortMatch, PortOrRange, Protocol, ProtocolMatch};

/// Inclusive, sorted, disjoint, not adjacent ranges of one protocol's ports.
type Ranges = Vec<(u16, u16)>;

/// Every port of a protocol, port 0 too.
const WHOLE: (u16, u16) = (0, u16::MAX);

/// A set of ports per protocol, in canonical form: equal sets are equal values.
///
/// Closed under union, intersection and difference, so that ordered rules of
/// allow and deny can be resolved to one set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Ports {
    /// Protocols without ports: ICMP and unknown ones.
    other: bool,
    /// In the order of [`Protocol::ALL`].
    ranges: [Ranges; 3],
}

impl Ports {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self {
            other: true,
            ranges: [vec![WHOLE], vec![WHOLE], vec![WHOLE]],
        }
    }

    /// All ports of a protocol.
    pub(crate) fn whole(protocol: Protocol) -> Self {
        Self::range(protocol, WHOLE.0, WHOLE.1)
    }

    /// An inclusive range.
    pub(crate) fn range(protocol: Protocol, first: u16, last: u16) -> Self {
        let mut ports = Self::default();
        ports.ranges[protocol as usize].push((first, last));
        ports
    }

    /// One port.
    pub(crate) fn one(protocol: Protocol, port: u16) -> Self {
        Self::range(protocol, port, port)
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        !self.other && self.ranges.iter().all(Vec::is_empty)
    }

    /// Adds another set's ports.
    pub(crate) fn add(&mut self, more: &Self) {
        self.other |= more.other;
        for (mine, theirs) in self.ranges.iter_mut().zip(&more.ranges) {
            match (mine.is_empty(), theirs.is_empty()) {
                (_, true) => {}
                (true, false) => mine.clone_from(theirs),
                (false, false) if mine != theirs => {
                    mine.extend(theirs);
                    normalize(mine);
                }
                _ => {}
            }
        }
    }

    /// Takes another set's ports away.
    pub(crate) fn subtract(&mut self, less: &Self) {
        self.other &= !less.other;
        for (mine, theirs) in self.ranges.iter_mut().zip(&less.ranges) {
            *mine = outside(mine, theirs);
        }
    }

    /// The ports that both sets hold.
    pub(crate) fn both(&self, with: &Self) -> Self {
        let mut rest = self.clone();
        rest.subtract(with);
        let mut both = self.clone();
        both.subtract(&rest);
        both
    }

    /// Whether it holds a port of an IANA protocol.
    pub(crate) fn contains(&self, protocol: u8, port: u16) -> bool {
        match Protocol::ALL.iter().position(|p| p.iana() == protocol) {
            None => self.other,
            Some(i) => self.ranges[i].iter().any(|r| (r.0..=r.1).contains(&port)),
        }
    }

    /// As people read it: `all`, or `TCP`, `TCP/80`, `TCP/8080-8090`, and `ICMP`
    /// for what has no ports.
    pub(crate) fn ranges_text(&self) -> Vec<String> {
        if *self == Self::all() {
            return vec!["all".to_owned()];
        }
        let text = |name: &str, (first, last): (u16, u16)| match (first, last) {
            WHOLE => name.to_owned(),
            (one, other) if one == other => format!("{name}/{one}"),
            (first, last) => format!("{name}/{first}-{last}"),
        };
        let named = ["TCP", "UDP", "SCTP"].iter().zip(&self.ranges);
        let ranges = named.flat_map(|(name, ranges)| ranges.iter().map(|r| text(name, *r)));
        ranges
            .chain(self.other.then(|| "ICMP".to_owned()))
            .collect()
    }

    /// The bits of [`PortSet`] that need no blocks.
    pub(crate) fn bits(&self) -> u32 {
        let whole = Protocol::ALL.iter().zip(&self.ranges);
        let whole = whole.filter(|(_, ranges)| ranges.as_slice() == [WHOLE]);
        let other = if self.other { PortSet::OTHER } else { 0 };
        whole.fold(other, |bits, (p, _)| bits | PortSet::whole(p.iana()))
    }

    /// Without what needs no blocks: what maps hold in blocks.
    pub(crate) fn singles(&self) -> Self {
        let mut singles = self.clone();
        singles.other = false;
        let whole = |ranges: &&mut Ranges| ranges.as_slice() == [WHOLE];
        singles.ranges.iter_mut().filter(whole).for_each(Vec::clear);
        singles
    }

    /// The blocks of single ports, by IANA protocol and block number.
    pub(crate) fn blocks(&self) -> BTreeMap<(u16, u16), PortBlock> {
        let mut blocks: BTreeMap<_, PortBlock> = BTreeMap::new();
        for (protocol, ranges) in Protocol::ALL.iter().zip(&self.ranges) {
            for port in ranges.iter().flat_map(|r| r.0..=r.1) {
                let key = (u16::from(protocol.iana()), port >> 8);
                blocks.entry(key).or_default().insert(port);
            }
        }
        blocks
    }
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

/// What of the first ranges lies outside of the second.
fn outside(ranges: &Ranges, less: &Ranges) -> Ranges {
    let mut left = Ranges::new();
    for &(first, last) in ranges {
        let mut next = u32::from(first);
        for &(from, to) in less.iter().filter(|r| r.0 <= last && r.1 >= first) {
            if u32::from(from) > next {
                // Not below `first`, which is at least 0, so above 0.
                left.push((u16::try_from(next).unwrap_or(first), from - 1));
            }
            next = u32::from(to) + 1;
        }
        if let Ok(next) = u16::try_from(next)
            && next <= last
        {
            left.push((next, last));
        }
    }
    left
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

    /// As a ClusterNetworkPolicy's rule has it; `None` for ICMP.
    pub(crate) fn as_match(&self) -> Option<ProtocolMatch> {
        let port = PortMatch {
            destination_port: Some(PortOrRange {
                number: Some(self.port.into()),
                range: None,
            }),
        };
        let mut matched = ProtocolMatch::default();
        match self.with_ports()? {
            Protocol::Tcp => matched.tcp = Some(port),
            Protocol::Udp => matched.udp = Some(port),
            Protocol::Sctp => matched.sctp = Some(port),
        }
        Some(matched)
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
    fn difference_and_intersection_are_those_of_sets_of_ports() {
        let set = |ranges: &[(u16, u16)]| {
            let mut ports = Ports::default();
            for (first, last) in ranges {
                ports.add(&Ports::range(Protocol::Tcp, *first, *last));
            }
            ports
        };
        let shapes: [&[(u16, u16)]; 8] = [
            &[],
            &[(0, 65_535)],
            &[(1, 65_535)],
            &[(0, 0)],
            &[(65_535, 65_535)],
            &[(10, 20), (30, 40)],
            &[(15, 35)],
            &[(9, 9), (20, 30), (40, 50)],
        ];
        let ports = || (0..60).chain(65_500..=65_535);
        for (a, b) in shapes.iter().flat_map(|a| shapes.map(|b| (set(a), set(b)))) {
            let mut less = a.clone();
            less.subtract(&b);
            let both = a.both(&b);
            for port in ports() {
                let (in_a, in_b) = (a.contains(6, port), b.contains(6, port));
                assert_eq!(
                    less.contains(6, port),
                    in_a && !in_b,
                    "{a:?} less {b:?}: {port}"
                );
                assert_eq!(
                    both.contains(6, port),
                    in_a && in_b,
                    "{a:?} and {b:?}: {port}"
                );
            }
            // Canonical: the same set put together again is the same value.
            less.add(&both);
            assert_eq!(less, a);
        }
    }

    #[test]
    fn everything_but_one_port_keeps_icmp_and_the_other_protocols() {
        let mut ports = Ports::all();
        ports.subtract(&Ports::one(Protocol::Tcp, 80));
        assert!(ports.contains(1, 0) && ports.contains(47, 0) && ports.contains(17, 80));
        assert!(ports.contains(6, 79) && !ports.contains(6, 80));
        assert_eq!(ports.bits(), PortSet::ALL & !PortSet::ALL_TCP);
        assert_eq!(ports.singles().blocks().len(), 256);
        ports.subtract(&Ports::all());
        assert!(ports.is_empty());
    }

    #[test]
    fn a_range_reaches_across_blocks() {
        let ports = Ports::range(Protocol::Tcp, 250, 600);
        let blocks = ports.blocks();
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
