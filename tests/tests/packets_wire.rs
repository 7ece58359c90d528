//! The packet table on the wire: frames that leave a pod's namespace, and what happens
//! to them on their way to another pod.
#![allow(clippy::unwrap_used)]

mod packets;

use std::time::{Duration, Instant};

use ringfence_ebpf::abi::Reason;
use ringfence_tests::packets::fixture::{self, address};
use ringfence_tests::packets::step::from_pod;
use ringfence_tests::packets::{Arrival, Frame, Step, assert_no_fault, rows};
use ringfence_tests::testnet::{Frames, Mode, Net, Pod};

use packets::{Counters, Node, network};

const SYN: u8 = 2;
/// How long a frame may take; a frame that isn't dropped takes some microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to watch for a frame that must not arrive.
const GLANCE: Duration = Duration::from_millis(3);

/// Silences pods, whose own packets would be counted too, except for neighbour
/// discovery and multicast reports.
const SILENCE: &str = "add table inet quiet; \
    add chain inet quiet out { type filter hook output priority 0; policy drop; }; \
    add rule inet quiet out icmpv6 type { nd-router-solicit, nd-neighbor-solicit, \
    nd-neighbor-advert, mld2-listener-report } accept";

/// A guarded network whose pods send nothing by themselves.
struct Wire<'a> {
    net: &'a Net,
    node: Node,
    /// A socket on every pod's interface.
    sockets: Vec<(&'a Pod, Frames)>,
    gateway: Option<[u8; 6]>,
}

fn on_the_wire(mode: Mode, work: impl FnOnce(&mut Wire<'_>) + Send) {
    let net = network(mode);
    for pod in net.pods() {
        pod.ns.output("nft", &[SILENCE]).unwrap();
    }
    net.node().run(|| work(&mut Wire::guard(&net))).unwrap();
}

impl<'a> Wire<'a> {
    fn guard(net: &'a Net) -> Self {
        let node = Node::guard(net, false);
        let open = |pod: &'a Pod| (pod, Frames::open(&pod.ns, "eth0").unwrap());
        let gateway = match net.mode() {
            Mode::Routed => None,
            Mode::Bridge { .. } => Frames::open(net.node(), "cni0").unwrap().mac(),
        };
        Self {
            net,
            node,
            sockets: net.pods().iter().map(open).collect(),
            gateway,
        }
    }

    fn socket(&self, pod: &str) -> &Frames {
        &self
            .sockets
            .iter()
            .find(|(one, _)| one.name == pod)
            .unwrap()
            .1
    }

    /// Sends a frame from a pod to the MAC of the next hop in this network.
    fn send(&self, pod: &str, frame: &[u8]) {
        let mut frame = frame.to_vec();
        if frame[0] & 1 == 0 {
            let own = self.net.pod(pod).unwrap();
            let peer = fixture::PODS.iter().find(|peer| frame[..6] == peer.mac);
            let next = match (self.gateway, peer) {
                (None, _) => own.host_mac,
                (Some(_), Some(peer)) => peer.mac,
                (Some(bridge), None) => bridge,
            };
            frame[..6].copy_from_slice(&next);
        }
        self.socket(pod).send(&frame).unwrap();
    }

    /// Reports whether the frame arrives at a pod in time.
    fn arrives(&self, pod: &str, sent: &[u8], timeout: Duration) -> bool {
        let same = |frame: &[u8]| is_same(sent, frame);
        self.socket(pod).receive(timeout, same).unwrap().is_some()
    }

    /// Returns the counters that have risen, once any has.
    fn risen(&mut self) -> Counters {
        let start = Instant::now();
        loop {
            let risen = self.node.risen();
            if !risen.is_empty() || start.elapsed() > PATIENCE {
                return risen;
            }
        }
    }

    /// Sends the step's frame from its pod. Returns what is wrong, if anything.
    fn fault(&mut self, first: &Step, counted: &Counters, arrival: Arrival) -> Option<String> {
        let sender = first.pod?;
        self.send(sender, &first.frame);
        let arrived = match arrival {
            Arrival::Pod(pod) => self.arrives(pod, &first.frame, PATIENCE),
            Arrival::Nowhere => false,
        };
        let risen = if counted.is_empty() {
            self.node.risen()
        } else {
            self.risen()
        };
        let astray: Vec<&str> = match arrival {
            Arrival::Pod(_) => Vec::new(),
            // Once the frame is counted, it is dropped or has arrived already.
            Arrival::Nowhere => addressees(&first.frame, sender)
                .filter(|pod| self.arrives(pod, &first.frame, GLANCE))
                .collect(),
        };
        let wanted = matches!(arrival, Arrival::Pod(_));
        (risen != *counted || arrived != wanted || !astray.is_empty()).then(|| {
            format!(
                "arrived: {arrived}, astray at {astray:?}, counted {risen:?}; \
                 expected {arrival:?}, {counted:?}"
            )
        })
    }
}

/// Returns the pods that a frame is addressed to, except its sender.
fn addressees(frame: &[u8], sender: &str) -> impl Iterator<Item = &'static str> {
    let others = fixture::PODS.iter().filter(move |pod| pod.name != sender);
    let addressed = others.filter(move |pod| frame[0] & 1 != 0 || frame[..6] == pod.mac);
    addressed.map(|pod| pod.name)
}

/// Reports whether a received frame is the one that was sent: the same IP payload
/// between the same addresses. Link header, hop count and IPv4 options change.
fn is_same(sent: &[u8], frame: &[u8]) -> bool {
    let (addresses, payload) = match sent[12..14] {
        [0x08, 0x00] if sent.len() > 34 => (26..34, 14 + usize::from(sent[14] & 15) * 4),
        [0x86, 0xdd] if sent.len() > 54 => (22..54, 54),
        _ => (12..14, 14),
    };
    // Routing removes the padding.
    let end = frame.len().min(sent.len());
    frame.len() > payload
        && payload < end
        && frame[12..14] == sent[12..14]
        && frame[addresses.clone()] == sent[addresses]
        && frame[payload..end] == sent[payload..end]
}

fn every_row_holds(mode: Mode) {
    on_the_wire(mode, |wire| {
        let mut faults = Vec::new();
        let mut played = 0;
        for row in rows() {
            let Some(arrival) = row.on_the_wire() else {
                continue;
            };
            played += 1;
            let counted = row.steps.iter().map(Step::counted).find(|c| !c.is_empty());
            let fault = wire.fault(&row.steps[0], &counted.unwrap_or_default(), arrival);
            faults.extend(fault.map(|fault| format!("{}: {fault}", row.name)));
        }
        assert_no_fault(&faults);
        // Most rows of the table begin with a frame that a pod sends.
        assert!(played > 300, "only {played} rows");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_row_that_a_pod_can_send_holds_between_routed_pods() {
    every_row_holds(Mode::Routed);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_row_that_a_pod_can_send_holds_between_bridged_pods() {
    every_row_holds(fixture::bridge());
}

/// Returns a caller's SYN with a VLAN tag set by the sender: the kernel moves the tag
/// out of the frame's bytes on the way.
fn tagged(from: &str, v4: bool) -> (Frame, Vec<u8>) {
    let frame = Frame::tcp(
        (address(from, v4), 41_000),
        (address("callee", v4), 8080),
        SYN,
    );
    let mut bytes = frame.bytes();
    bytes.splice(12..12, [0x81, 0, 0, 5]);
    (frame, bytes)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vlan_tag_that_has_left_the_bytes_is_seen_all_the_same() {
    on_the_wire(fixture::bridge(), |wire| {
        for v4 in [true, false] {
            for pod in ["caller", "plain"] {
                let (frame, bytes) = tagged(pod, v4);
                let step = from_pod(pod, &frame)
                    .drops(Reason::Vlan)
                    .spoilt(|b| *b = bytes);
                assert_eq!(wire.fault(&step, &step.counted(), Arrival::Nowhere), None);
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn headers_that_lie_in_fragments_of_memory_are_read() {
    on_the_wire(Mode::Routed, |wire| {
        for pod in wire.net.pods() {
            pod.ns.ip("link set eth0 mtu 9000\n").unwrap();
            let host = format!("link set {} mtu 9000\n", pod.host_device);
            wire.net.node().ip(&host).unwrap();
        }
        for v4 in [true, false] {
            // For frames of a page or more, AF_PACKET leaves only 14 bytes linear.
            let long = |port| {
                let end = (address("callee", v4), port);
                let syn = Frame::tcp((address("caller", v4), 42_000), end, SYN);
                syn.with(|f| f.payload.resize(8000, 0x5a))
            };
            let listed = from_pod("caller", &long(8080));
            let arrival = Arrival::Pod("callee");
            assert_eq!(wire.fault(&listed, &Counters::new(), arrival), None);
            let other = from_pod("caller", &long(8081)).drops(Reason::Policy);
            assert_eq!(wire.fault(&other, &other.counted(), Arrival::Nowhere), None);
        }
    });
}
