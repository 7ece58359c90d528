//! The packet table through the loaded programs, by test run.
#![allow(clippy::unwrap_used)]

mod packets;

use nix::net::if_::if_nametoindex;
use ringfence::datapath::{EndpointState, Hook, Interface};
use ringfence::runtime::FoundBy;
use ringfence_ebpf::abi::{Direction, Quota, Reason};
use ringfence_ebpf::packet::tcp::{ACK, SYN};
use ringfence_policy::diff::Change;
use ringfence_policy::tables::Tables;
use ringfence_tests::packets::fixture::{self, address, find};
use ringfence_tests::packets::step::{from_pod, to_pod};
use ringfence_tests::packets::{Expected, Frame, Row, Source, Step, assert_no_fault, rows};
use ringfence_tests::testnet::{Mode, Net};

use packets::{Node, network};

/// Runs on a thread inside the namespace of a guarded node.
fn on_a_node(audit: bool, work: impl FnOnce(&mut Node) + Send) {
    let net = network(Mode::Routed);
    silence(&net);
    let guarded = || work(&mut Node::guard(&net, audit));
    net.node().run(guarded).unwrap();
}

/// Stops all of the network's own traffic, such as multicast listener reports. Below
/// Linux 6.3 a test run leaves softirqs on (`bpf_test_run` of net/bpf/test_run.c), so
/// such a packet would run a hook in the middle of the test run, in the same memory of
/// the CPU. Real hooks run with softirqs off.
fn silence(net: &Net) {
    let pods = net.pods().iter().map(|pod| &pod.ns);
    for ns in pods.chain([net.outside()]) {
        ns.ip("link set dev eth0 down").unwrap();
    }
}

fn ifindex(node: &Node, pod: Option<&str>) -> u32 {
    let endpoints = node.datapath.endpoints();
    let found = endpoints.iter().find(|one| {
        one.pod
            .as_ref()
            .is_some_and(|own| Some(own.name.as_str()) == pod)
    });
    match found {
        Some(endpoint) => endpoint.ifindex,
        // The uplink, which isn't an endpoint's device.
        None => if_nametoindex("eth0").unwrap(),
    }
}

/// Returns what is wrong with a step, if anything: its outcome, or any counter.
fn fault(node: &mut Node, step: &Step) -> Option<String> {
    let hook = match step.hook {
        Direction::Egress => Hook::FromPod,
        Direction::Ingress => Hook::ToPod,
    };
    let from = match step.source {
        Source::Node => 0,
        _ => ifindex(node, None),
    };
    let at = ifindex(node, step.pod);
    let seen = step.source == Source::Forwarded;
    let run = match node.datapath.run(hook, &step.frame, at, from, seen, 1) {
        Ok(run) => run,
        Err(error) => return Some(format!("can't be run: {error}")),
    };
    let (risen, expected) = (node.risen(), step.counted());
    let passes = !matches!(step.expected, Expected::Drop(_));
    (run.passes != passes || risen != expected).then(|| {
        let verb = if run.passes { "passes" } else { "is dropped" };
        format!(
            "it {verb}, counted {risen:?}; expected {:?}, {expected:?}",
            step.expected
        )
    })
}

/// Returns the rows that a test run can show completely.
fn runnable() -> Vec<Row> {
    let fits = |row: &Row| row.steps.iter().all(Step::fits_a_test_run);
    rows().into_iter().filter(fits).collect()
}

/// Returns what is wrong with the table's rows, one after the other.
fn faults(node: &mut Node) -> Vec<String> {
    let mut faults = Vec::new();
    for Row { name, steps } in runnable() {
        let found = steps
            .iter()
            .enumerate()
            .find_map(|(i, step)| Some((i, fault(node, step)?)));
        faults.extend(found.map(|(i, fault)| format!("{name}, step {}: {fault}", i + 1)));
    }
    faults
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_row_of_the_table_holds_in_the_loaded_programs() {
    on_a_node(false, |node| {
        assert_no_fault(&faults(node));
        assert_eq!(node.datapath.stats().unwrap().connections_not_stored, 0);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn so_it_does_while_services_are_hidden() {
    let tables = Tables {
        hides_services: true,
        ..fixture::tables()
    };
    let net = network(Mode::Routed);
    silence(&net);
    let guarded = || faults(&mut Node::guard_by(&net, false, &tables));
    assert_no_fault(&net.node().run(guarded).unwrap());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_auditing_agent_drops_nothing_and_tells_the_same_reasons() {
    on_a_node(true, |node| {
        let mut faults = Vec::new();
        for row in runnable() {
            for step in row.audited() {
                faults.extend(fault(node, &step).map(|fault| format!("{}: {fault}", row.name)));
            }
        }
        assert_no_fault(&faults);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_counts_what_was_sent_each_way() {
    on_a_node(false, |node| {
        for v4 in [true, false] {
            let query = Frame::udp(
                (address("callee", v4), 40_000),
                (address("stranger", v4), 53),
            );
            let answer = to_pod("callee", &query.reply());
            for step in [from_pod("callee", &query), answer.clone(), answer] {
                assert_eq!(fault(node, &step), None);
            }
            let peer = address("stranger", v4);
            let connections = node.datapath.connections().unwrap();
            let connection = connections
                .iter()
                .find(|connection| connection.remote == peer)
                .unwrap();
            let len = query.bytes().len() as u64;
            assert_eq!(
                (connection.packets, connection.bytes),
                ([2, 1], [2 * len, len])
            );
            assert_eq!(
                (connection.pod.as_str(), connection.opened),
                ("bank/callee", "egress")
            );
            assert_eq!(
                (connection.local_port, connection.remote_port),
                (40_000, 53)
            );
        }
        assert_eq!(node.datapath.connections().unwrap().len(), 2);
    });
}

/// Returns the interfaces that the node guards.
fn interfaces(node: &Node) -> Vec<Interface> {
    let endpoints = node.datapath.endpoints().into_iter();
    let interface = |one: EndpointState| {
        let pod = one.pod.unwrap();
        Interface {
            mac: find(&pod.name).mac,
            by: FoundBy::CniCache,
            ifindex: one.ifindex,
            name: one.interface,
            pod,
        }
    };
    endpoints.map(interface).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_that_joins_a_class_counts_from_its_next_packet_on() {
    on_a_node(false, |node| {
        let interfaces = interfaces(node);
        let tables = fixture::tables();
        let change = Change {
            until: 1,
            ..Change::between(&Tables::default(), &tables)
        };
        let applied = node.datapath.apply_change(&tables, &change, &interfaces);
        assert_eq!(applied.unwrap().failed, []);
        let call = |v4| {
            let to = (address("stranger", v4), 8080);
            from_pod(
                "caller",
                &Frame::tcp((address("caller", v4), 40_000), to, SYN),
            )
        };
        for v4 in [true, false] {
            // Twice: this CPU caches the denial.
            assert_eq!(fault(node, &call(v4).drops(Reason::Policy)), None);
            assert_eq!(fault(node, &call(v4).drops(Reason::Policy)), None);
        }
        let mut joined = tables.clone();
        for v4 in [true, false] {
            let class = tables.class_of(&address("callee", v4).into());
            joined.classes.insert(address("stranger", v4).into(), class);
        }
        let change = Change {
            since: 1,
            until: 2,
            ..Change::between(&tables, &joined)
        };
        let applied = node.datapath.apply_change(&joined, &change, &interfaces);
        assert!(!applied.unwrap().flipped, "both buffers take it as it is");
        for v4 in [true, false] {
            assert_eq!(fault(node, &call(v4)), None);
        }
    });
}

/// Returns a packet of the closed callee's connection to a stranger, by number.
fn connection(number: u32, flags: u8) -> Frame {
    let (own, peer) = (address("callee", true), address("stranger", true));
    let port = 1 + (number % 60_000) as u16;
    let to = 443 + (number / 60_000) as u16;
    Frame::tcp((own, port), (peer, to), flags)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_has_as_many_connections_as_it_may_is_refused_more_and_loses_none() {
    const MORE: u32 = 2000;
    on_a_node(false, |node| {
        let (at, from) = (ifindex(node, Some("callee")), ifindex(node, None));
        let passes = |node: &mut Node, hook, frame: &Frame| {
            let run = node.datapath.run(hook, &frame.bytes(), at, from, true, 1);
            run.unwrap().passes
        };
        let mut refused = 0;
        for number in 0..Quota::REPLIED + MORE {
            let syn = connection(number, SYN);
            assert!(passes(node, Hook::FromPod, &syn));
            assert!(passes(node, Hook::ToPod, &syn.reply().flags(SYN | ACK)));
            refused += u64::from(!passes(node, Hook::FromPod, &syn.flags(ACK)));
        }
        assert_eq!(refused, u64::from(MORE));
        let risen = node.risen();
        let counted: Vec<_> = risen.iter().map(|(one, n)| (one.reason, *n)).collect();
        assert_eq!(counted, [("connection_limit", refused)]);
        for number in 0..Quota::REPLIED {
            let data = connection(number, ACK).reply();
            assert!(passes(node, Hook::ToPod, &data), "connection {number}");
        }
        let stats = node.datapath.stats().unwrap();
        assert_eq!(
            (stats.connections_evicted, stats.connections_not_stored),
            (0, 0)
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_shows_how_far_it_has_come_and_whether_it_was_picked_up() {
    const FIN: u8 = 1;
    on_a_node(false, |node| {
        let shown = |node: &mut Node| {
            let connections = node.datapath.connections().unwrap();
            assert_eq!(connections.len(), 1);
            (connections[0].state, connections[0].picked_up)
        };
        let syn = connection(7, SYN);
        let (ours, theirs) = (syn.flags(FIN | ACK), syn.reply().flags(FIN | ACK));
        for step in [
            from_pod("callee", &syn),
            to_pod("callee", &syn.reply().flags(SYN | ACK)),
            from_pod("callee", &syn.flags(ACK)),
            to_pod("callee", &theirs.numbers(0x7000_0000, 1)),
            to_pod("callee", &theirs.flags(4).numbers(0x7000_0000, 1)),
        ] {
            assert_eq!(fault(node, &step), None);
        }
        assert_eq!(shown(node), ("established", false));
        assert_eq!(fault(node, &to_pod("callee", &theirs)), None);
        assert_eq!(shown(node), ("half-closed", false));
        assert_eq!(fault(node, &from_pod("callee", &ours)), None);
        assert_eq!(shown(node), ("closing", false));
    });
    on_a_node(false, |node| {
        let call = Frame::tcp(
            (address("caller", true), 40_000),
            (address("callee", true), 8080),
            ACK,
        );
        assert_eq!(fault(node, &from_pod("caller", &call)), None);
        let connections = node.datapath.connections().unwrap();
        assert_eq!((connections.len(), connections[0].picked_up), (1, true));
        assert_eq!(node.datapath.stats().unwrap().connections_picked_up, 1);
    });
}
