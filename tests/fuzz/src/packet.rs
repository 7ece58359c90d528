//! Frames through the parser and both hooks, and what must hold whatever they are.
//!
//! The input is a line of frames, each behind three bytes: who sees it where,
//! then its length, the high byte first. The pods are those of the packet table;
//! `plain` is isolated here both ways and granted nothing.

use std::net::IpAddr;
use std::sync::OnceLock;

use ringfence_ebpf::abi::{Direction, EndpointRules, Identity, ServiceKey};
use ringfence_ebpf::packet::{self, Layout, Packet, ethertype, icmpv6, protocol};
use ringfence_policy::tables::Tables;
use ringfence_tests::packets::fixture::{self, PODS, Pod};
use ringfence_tests::packets::host::{Host, SECOND, said};
use ringfence_tests::packets::{Expected, Source, Step};

/// More frames than these show nothing new.
const MOST: usize = 32;
/// Isolated both ways, granted nothing.
const SHUT: &str = "plain";
/// Quarantined.
const CUT: &str = "cut";

/// Bits of the first of the three bytes: the pod's number, from which hook,
/// where the frame came in, and whether time passes before.
mod bits {
    pub(super) const POD: u8 = 0b0000_0111;
    pub(super) const TO_POD: u8 = 0b0000_1000;
    pub(super) const SOURCE: u8 = 0b0011_0000;
    pub(super) const SENDER_NEXT: u8 = 0b0100_0000;
    pub(super) const LATER: u8 = 0b1000_0000;
}

/// Frames as the hooks see them.
pub fn packet(input: &[u8]) {
    let mut host = Host::new(policy().clone());
    let shut = EndpointRules {
        flags: EndpointRules::INGRESS_ISOLATED | EndpointRules::EGRESS_ISOLATED,
        ..EndpointRules::default()
    };
    host.endpoint_mut(SHUT).rules = [shut; 2];
    let mut acquainted = false;
    for (how, frame) in Frames(input).take(MOST) {
        reads_only_its_own(frame);
        if how & bits::LATER != 0 {
            host.now += 61 * SECOND;
        }
        let step = step(how, frame);
        let connections = host.connection_count();
        let verdict = host.run(&step);
        if matches!(verdict, Expected::Drop(_)) {
            assert_eq!(
                host.connection_count(),
                connections,
                "a dropped frame made a connection"
            );
            continue;
        }
        let Some(pod) = step.pod.map(fixture::find) else {
            panic!("a frame of nobody's interface passes");
        };
        let mut parsed = Packet::EMPTY;
        packet::parse(frame, &mut parsed);
        match step.hook {
            Direction::Egress => is_honest(&pod, frame, &parsed),
            Direction::Ingress => is_addressed(&pod, frame),
        }
        // What the node has to do with opens connections, whose packets pass as well.
        if pod.name == CUT || pod.name == SHUT && !acquainted {
            assert!(
                always_allowed(&pod, &step, &parsed),
                "passes at {}: {parsed:?}",
                pod.name
            );
        }
        acquainted |= pod.name == SHUT
            && (with_node_or_itself(&pod, &step, &parsed) || to_service(&pod, &step, &parsed));
    }
}

fn policy() -> &'static Tables {
    static POLICY: OnceLock<Tables> = OnceLock::new();
    POLICY.get_or_init(fixture::tables)
}

/// The input, frame by frame; one that is cut short is what there is.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([how, high, low], rest) = self.0.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (frame, rest) = rest.split_at(length.min(rest.len()));
        self.0 = rest;
        Some((*how, frame))
    }
}

fn step(how: u8, frame: &[u8]) -> Step {
    let number = usize::from(how & bits::POD);
    let pod = PODS.get(number).map(|pod| pod.name);
    let service = |service| {
        let next = usize::from(how & bits::SENDER_NEXT != 0);
        let name = PODS[(number + next) % PODS.len()].name;
        Source::Pod { name, service }
    };
    Step {
        hook: if how & bits::TO_POD == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        },
        pod,
        source: match (how & bits::SOURCE) >> 4 {
            0 => Source::Forwarded,
            1 => Source::Node,
            2 => service(false),
            _ => service(true),
        },
        vlan: false,
        pending: None,
        frame: frame.to_vec(),
        // Not looked at: nobody knows beforehand.
        expected: Expected::Pass,
        decided: Direction::Egress,
        ends: ("", ""),
        protocol: ringfence_ebpf::abi::Protocol::Other,
    }
}

/// What is behind the packet is no part of it, and of less than the packet
/// nothing is made.
fn reads_only_its_own(frame: &[u8]) {
    let parse = |frame: &[u8]| {
        let mut packet = Packet::EMPTY;
        packet::parse(frame, &mut packet);
        said(&packet)
    };
    let whole = parse(frame);
    let ports = |packet: &Packet| (packet.source_port, packet.destination_port);
    if whole.layout != Layout::Ip {
        assert_eq!(ports(&whole), (0, 0), "ports of what isn't accounted for");
        return;
    }
    let end = (whole.transport + whole.transport_len) as usize;
    assert!(end <= frame.len(), "the packet ends behind the frame");
    assert_eq!(parse(&frame[..end]), whole, "link padding says something");
    let mut padded = frame[..end].to_vec();
    padded.extend([0xff; 64]);
    assert_eq!(parse(&padded), whole, "link padding says something");
    let transport = whole.transport as usize;
    let cuts = [0, 13, 14, 20, 33, transport, transport + 3, transport + 7];
    for cut in cuts.into_iter().chain([end / 2, end - 1]) {
        if cut < end {
            let less = parse(&frame[..cut]);
            assert!(
                matches!(less.layout, Layout::Fault(_)) && ports(&less) == (0, 0),
                "{cut} of {end} bytes: {less:?}"
            );
        }
    }
}

/// A frame that a pod may send is from its own MAC and address. Read from the
/// bytes, not by the parser.
fn is_honest(pod: &Pod, frame: &[u8], parsed: &Packet) {
    assert_eq!(frame.get(6..12), Some(&pod.mac[..]), "another's MAC");
    let own = |bytes: &[u8]| pod.addresses().into_iter().any(|ip| octets(ip) == bytes);
    match (parsed.ethertype, frame.get(14..)) {
        (ethertype::IPV4, Some(ip)) if ip.len() >= 20 => {
            assert!(own(&ip[12..16]), "another's IPv4 address");
        }
        (ethertype::IPV6, Some(ip)) if ip.len() >= 40 => {
            let source = &ip[8..24];
            let local = octets(pod.link_local()) == source;
            // A pod that starts has no address yet; a later fragment is nothing
            // without its first one.
            let none = source == [0; 16] && (parsed.fragment_at != 0 || starts_up(parsed));
            // One that its duplicate-address detection has claimed; those made from
            // a MAC are their MACs'.
            let claimed = parsed.source.is_link_local() && !parsed.source.is_made_from_mac();
            assert!(
                own(source) || local || none || claimed,
                "another's IPv6 address"
            );
            assert!(!deceives(parsed), "a router's message");
        }
        (ethertype::ARP, Some(arp)) => {
            let (mac, ip) = (arp.get(8..14), arp.get(14..18));
            assert_eq!(mac, Some(&pod.mac[..]), "ARP for another's MAC");
            let ip = ip.unwrap_or_default();
            assert!(own(ip) || ip == [0; 4], "ARP for another's address");
        }
        _ => {}
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn starts_up(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMPV6
        && matches!(
            packet.detail,
            icmpv6::NEIGHBOUR_SOLICIT | icmpv6::MLD_REPORT | icmpv6::MLD2_REPORT
        )
}

fn deceives(packet: &Packet) -> bool {
    packet.layout == Layout::Ip
        && packet.protocol == protocol::ICMPV6
        && matches!(packet.detail, icmpv6::ROUTER_ADVERT | icmpv6::REDIRECT)
}

/// A frame that reaches a pod is for it, or for a group.
fn is_addressed(pod: &Pod, frame: &[u8]) {
    let to = frame.get(..6);
    let group = to.is_some_and(|mac| mac[0] & 1 != 0);
    assert!(group || to == Some(&pod.mac[..]), "for another's MAC");
}

/// What passes whatever policy says, but for what an open connection lets through.
fn always_allowed(pod: &Pod, step: &Step, packet: &Packet) -> bool {
    let discovery = packet.layout == Layout::Ip
        && packet.protocol == protocol::ICMPV6
        && matches!(packet.detail, 130..=137 | 143);
    packet.layout == Layout::Arp
        || packet.layout == Layout::Ip
            && (discovery
                || with_node_or_itself(pod, step, packet)
                || to_service(pod, step, packet))
}

/// Whether it is a call of a Service, which is decided behind it.
fn to_service(pod: &Pod, step: &Step, packet: &Packet) -> bool {
    let known = policy().identities.get(&packet.destination);
    let shown = known.is_some_and(|(_, flags)| flags & Identity::IS_SERVICE != 0);
    let key = ServiceKey {
        addr: packet.destination,
        protocol: u16::from(packet.protocol),
        port: packet.destination_port,
    };
    let service = shown && policy().services.contains_key(&key);
    step.hook == Direction::Egress && service && pod.name != CUT
}

/// Whether it is between a pod and its node, or itself.
fn with_node_or_itself(pod: &Pod, step: &Step, packet: &Packet) -> bool {
    match step.hook {
        Direction::Ingress => match step.source {
            Source::Node => true,
            Source::Pod { name, .. } => name == pod.name,
            Source::Forwarded | Source::Unproven | Source::Unseen => false,
        },
        Direction::Egress => {
            let to = IpAddr::from(packet.destination);
            let known = policy().identities.get(&packet.destination);
            let node = known.is_some_and(|(_, flags)| flags & Identity::IS_THIS_NODE != 0);
            node || pod.addresses().contains(&to) || pod.link_local() == to
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use ringfence_tests::packets::{Row, rows};

    use super::*;

    /// A row as the fuzzer would write it; none of one that is too long.
    fn seed(row: &Row) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let unwritten =
            |step: &Step| step.vlan || step.pending.is_some() || step.source.is_unproven();
        if row.steps.iter().any(unwritten) {
            return None;
        }
        for step in &row.steps {
            let number = |name: &str| PODS.iter().position(|pod| pod.name == name);
            let pod = step.pod.map_or(Some(7), number)? as u8;
            let (source, next) = match step.source {
                Source::Forwarded | Source::Unproven | Source::Unseen => (0, 0),
                Source::Node => (1, 0),
                // Only the pod itself and the one after it can be written.
                Source::Pod { name, service } => {
                    let own = number(name)? as u8 == pod;
                    let next = if own { 0 } else { bits::SENDER_NEXT };
                    (2 + u8::from(service), next)
                }
            };
            let hook = match step.hook {
                Direction::Egress => 0,
                Direction::Ingress => bits::TO_POD,
            };
            bytes.push(pod | hook | source << 4 | next);
            bytes.extend(u16::try_from(step.frame.len()).ok()?.to_be_bytes());
            bytes.extend(&step.frame);
        }
        (bytes.len() < 1024).then_some(bytes)
    }

    /// The table, some rows a seed: one each would be a thousand files.
    fn seeds() -> Vec<Vec<u8>> {
        let rows: Vec<Vec<u8>> = rows().iter().filter_map(seed).collect();
        rows.chunks(8).map(<[_]>::concat).collect()
    }

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/packet")
    }

    #[test]
    fn frames_of_the_corpus_keep_every_promise() {
        let files = fs::read_dir(folder()).expect("a corpus");
        for file in files {
            packet(&fs::read(file.expect("a file").path()).expect("a file"));
        }
    }

    #[test]
    fn rows_of_the_packet_table_keep_every_promise() {
        let seeds = seeds();
        assert!(seeds.len() > 50, "{} seeds", seeds.len());
        seeds.iter().for_each(|seed| packet(seed));
    }

    #[test]
    #[ignore = "writes the packet table's frames into the corpus, after the table has changed"]
    fn write_seeds() {
        for (i, bytes) in seeds().iter().enumerate() {
            let file = folder().join(format!("table-{i:03}"));
            fs::write(file, bytes).expect("a writable corpus");
        }
    }
}
