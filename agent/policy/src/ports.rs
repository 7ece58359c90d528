//! Sets of ports, and the text form of a port.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ringfence_ebpf::abi::{PortBlock, PortKey, PortSet};
use serde::{Serialize, Serializer};

use crate::model::{PortMatch, PortOrRange, Protocol, ProtocolMatch};

/// Inclusive ranges of one protocol's ports: sorted, disjoint and not adjacent.
type Ranges = Vec<(u16, u16)>;

/// Every port of a protocol, including port 0.
const WHOLE: (u16, u16) = (0, u16::MAX);

/// A set of ports per protocol, in canonical form: equal sets are equal values.
///
/// Closed under union, intersection and difference, so ordered allow and deny rules can be
/// resolved to one set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Ports {
    /// Protocols without ports: ICMP and unknown protocols.
    other: bool,
    /// In the order of [`Protocol::ALL`].
    ranges: [Ranges; 3],
}

impl Ports {
    /// Returns the set of everything.
    pub(crate) fn all() -> Self {
        Self {
            other: true,
            ranges: [vec![WHOLE], vec![WHOLE], vec![WHOLE]],
        }
    }

    /// Returns the protocols without ports, including ICMP.
    pub(crate) fn without_ports() -> Self {
        Self {
            other: true,
            ..Self::default()
        }
    }

    /// Returns all ports of a protocol.
    pub(crate) fn whole(protocol: Protocol) -> Self {
        Self::range(protocol, WHOLE.0, WHOLE.1)
    }

    /// Returns an inclusive range.
    pub(crate) fn range(protocol: Protocol, first: u16, last: u16) -> Self {
        let mut ports = Self::default();
        ports.ranges[protocol as usize].push((first, last));
        ports
    }

    /// Returns a single port.
    pub(crate) fn one(protocol: Protocol, port: u16) -> Self {
        Self::range(protocol, port, port)
    }

    /// Reports whether the set is empty.
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

    /// Removes another set's ports.
    pub(crate) fn subtract(&mut self, less: &Self) {
        self.other &= !less.other;
        for (mine, theirs) in self.ranges.iter_mut().zip(&less.ranges) {
            *mine = outside(mine, theirs);
        }
    }

    /// Returns the ports that both sets contain.
    pub(crate) fn both(&self, with: &Self) -> Self {
        let mut rest = self.clone();
        rest.subtract(with);
        let mut both = self.clone();
        both.subtract(&rest);
        both
    }

    /// Reports whether the set contains a port of a protocol given by IANA number.
    pub(crate) fn contains(&self, protocol: u8, port: u16) -> bool {
        match Protocol::ALL.iter().position(|p| p.iana() == protocol) {
            None => self.other,
            Some(i) => self.ranges[i].iter().any(|r| (r.0..=r.1).contains(&port)),
        }
    }

    /// Formats the set for people: `all`, or `TCP`, `TCP/80`, `TCP/8080-8090`, and `ICMP` for the
    /// protocols without ports.
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

    /// Returns the bits of [`PortSet`] that need no blocks.
    pub(crate) fn bits(&self) -> u32 {
        let whole = Protocol::ALL.iter().zip(&self.ranges);
        let whole = whole.filter(|(_, ranges)| ranges.as_slice() == [WHOLE]);
        let other = if self.other { PortSet::OTHER } else { 0 };
        whole.fold(other, |bits, (p, _)| bits | PortSet::whole(p.iana()))
    }

    /// Returns the part of the set that maps store in blocks: everything not covered by
    /// [`Self::bits`].
    pub(crate) fn singles(&self) -> Self {
        let mut singles = self.clone();
        singles.other = false;
        let whole = |ranges: &&mut Ranges| ranges.as_slice() == [WHOLE];
        singles.ranges.iter_mut().filter(whole).for_each(Vec::clear);
        singles
    }

    /// Adds the contents of an entry of map `PORTS`, as returned by [`Ports::blocks`].
    pub(crate) fn add_block(&mut self, protocol: Protocol, block: u16, bits: &PortBlock) {
        let ranges = &mut self.ranges[protocol as usize];
        let held = (0..256).filter(|n| bits.contains(*n));
        ranges.extend(held.map(|n| match block {
            PortKey::SUMMARY => (n << 8, n << 8 | 0xff),
            block => (block << 8 | n, block << 8 | n),
        }));
        normalize(ranges);
    }

    /// Returns the entries of map `PORTS`, by IANA protocol and block number. A block of which
    /// the set contains only some ports has its own entry; fully contained blocks are listed
    /// under [`PortKey::SUMMARY`].
    ///
    /// A range needs at most three entries, however many ports it spans.
    pub(crate) fn blocks(&self) -> BTreeMap<(u16, u16), PortBlock> {
        let mut blocks = BTreeMap::new();
        for (protocol, ranges) in Protocol::ALL.iter().zip(&self.ranges) {
            for range in ranges {
                add_range(&mut blocks, u16::from(protocol.iana()), *range);
            }
        }
        blocks
    }
}

/// Adds a range that touches no other range of its protocol, so a block is never filled by two
/// ranges together.
fn add_range(
    blocks: &mut BTreeMap<(u16, u16), PortBlock>,
    protocol: u16,
    (first, last): (u16, u16),
) {
    const REST: u16 = 0xff;
    let (from, to) = (first >> 8, last >> 8);
    for block in from..=to {
        let start = if block == from { first & REST } else { 0 };
        let end = if block == to { last & REST } else { REST };
        let (block, ports) = match (start, end) {
            (0, REST) => (PortKey::SUMMARY, block..=block),
            _ => (block, start..=end),
        };
        let bits = blocks.entry((protocol, block)).or_default();
        ports.for_each(|port| bits.insert(port));
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

/// Returns the part of the first ranges that lies outside the second.
fn outside(ranges: &Ranges, less: &Ranges) -> Ranges {
    let mut left = Ranges::new();
    for &(first, last) in ranges {
        let mut next = u32::from(first);
        for &(from, to) in less.iter().filter(|r| r.0 <= last && r.1 >= first) {
            if u32::from(from) > next {
                // Not below `first`, which is at least 0, so `from` is above 0.
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
    /// IANA protocol number; ICMP includes ICMPv6.
    pub protocol: u8,
    /// Port, 0 for ICMP.
    pub port: u16,
}

impl PortSpec {
    /// Returns the protocol, if it has ports.
    pub(crate) fn with_ports(&self) -> Option<Protocol> {
        Protocol::ALL
            .into_iter()
            .find(|p| p.iana() == self.protocol)
    }

    /// Returns the form used in a ClusterNetworkPolicy's rule; `None` for ICMP.
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

/// Error for a port specification that doesn't parse.
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
#[path = "ports_tests.rs"]
mod tests;
