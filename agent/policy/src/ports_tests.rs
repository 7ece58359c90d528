//! Tests of [`super`].

use proptest::collection::vec;
use proptest::prelude::*;
use ringfence_ebpf::abi::{Addr, Buffer, Grant};
use ringfence_ebpf::verdict::{PolicyTables, in_set};

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
    let traits: [&[(u16, u16)]; 8] = [
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
    for (a, b) in traits.iter().flat_map(|a| traits.map(|b| (set(a), set(b)))) {
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
        // Canonical form: reassembling the same set gives an equal value.
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
    assert_eq!(ports.singles().blocks().len(), 2);
    ports.subtract(&Ports::all());
    assert!(ports.is_empty());
}

/// What the datapath finds in these blocks.
struct Held(BTreeMap<(u16, u16), PortBlock>);

impl PolicyTables for Held {
    fn class(&self, _: Buffer, _: &Addr) -> u32 {
        0
    }

    fn grant(&self, _: Buffer, _: u32, _: u32) -> Grant {
        Grant::default()
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        let block = self.0.get(&(key.protocol, key.block));
        block.is_some_and(|bits| bits.contains(port))
    }
}

#[test]
fn a_range_costs_three_entries_at_most_however_many_ports_it_spans() {
    let cost = |first, last| Ports::range(Protocol::Tcp, first, last).blocks().len();
    assert_eq!(cost(80, 80), 1);
    assert_eq!(cost(0, 255), 1);
    assert_eq!(cost(250, 600), 3);
    assert_eq!(cost(1, 65_535), 2);
    assert_eq!(cost(1, 65_534), 3);
    assert_eq!(cost(256, 65_535), 1);
    assert_eq!(cost(255, 256), 2);
}

/// Range ends, most of them near block boundaries.
fn end() -> impl Strategy<Value = u16> {
    let near = (0..=256_u32, 0..5_u32).prop_map(|(block, by)| {
        let port = (block * 256 + by).saturating_sub(2);
        u16::try_from(port).unwrap_or(u16::MAX)
    });
    prop_oneof![near, any::<u16>()]
}

fn range() -> impl Strategy<Value = (usize, u16, u16)> {
    (0..3_usize, end(), end()).prop_map(|(p, a, b)| (p, a.min(b), a.max(b)))
}

proptest! {
    #[test]
    fn the_datapath_finds_in_the_blocks_just_the_ports_that_were_added_and_not_taken_away(
        added in vec(range(), 0..6), taken in vec(range(), 0..6), others in vec(end(), 8),
    ) {
        let mut ports = Ports::default();
        for (protocol, first, last) in &added {
            ports.add(&Ports::range(Protocol::ALL[*protocol], *first, *last));
        }
        for (protocol, first, last) in &taken {
            ports.subtract(&Ports::range(Protocol::ALL[*protocol], *first, *last));
        }
        let blocks = ports.singles().blocks();
        let ranges: usize = ports.ranges.iter().map(Vec::len).sum();
        prop_assert!(blocks.len() <= 3 * ranges, "{ports:?}");
        let mut again = Ports::default();
        for ((iana, block), bits) in &blocks {
            let protocol = Protocol::ALL.into_iter().find(|p| u16::from(p.iana()) == *iana);
            again.add_block(protocol.expect("with ports"), *block, bits);
        }
        prop_assert_eq!(&again, &ports.singles());
        let (held, set) = (Held(blocks), 16 | ports.bits());
        let ends = added.iter().chain(&taken).flat_map(|(_, first, last)| [*first, *last]);
        let around = ends.flat_map(|p| [p.wrapping_sub(1), p, p.wrapping_add(1)]);
        for port in around.chain(others) {
            for (n, protocol) in Protocol::ALL.into_iter().enumerate() {
                let inside = |ranges: &[(usize, u16, u16)]| {
                    ranges.iter().any(|(p, a, b)| *p == n && *a <= port && port <= *b)
                };
                let found = in_set(&held, 0, set, protocol.iana(), port);
                prop_assert_eq!(found, inside(&added) && !inside(&taken), "{}", port);
            }
        }
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
