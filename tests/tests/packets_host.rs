//! The packet table through the library alone, over maps in memory.

#[path = "packets/hidden.rs"]
mod hidden;
#[path = "packets/lives.rs"]
mod lives;
#[path = "packets/old.rs"]
mod old;
#[path = "packets/own_node.rs"]
mod own_node;
#[path = "packets/window.rs"]
mod window;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_ebpf::abi::{Addr, Control, EndpointRules, Reason, Stat};
use ringfence_ebpf::conntrack::{self, State};
use ringfence_tests::packets::fixture::address;
use ringfence_tests::packets::host::{Host, SECOND};
use ringfence_tests::packets::step::{from_pod, to_pod};
use ringfence_tests::packets::{Expected, Frame, Row, Step, assert_no_fault, rows};

const ACK: u8 = 16;
const SYN: u8 = 2;

/// Returns what is wrong with a step, if anything: its outcome, its counter, or a
/// connection opened by a dropped packet.
fn fault(host: &mut Host, step: &Step) -> Option<String> {
    let (drops, opened) = (host.drops.clone(), opened(host));
    let given = host.run(step);
    if given != step.expected {
        return Some(format!("expected {:?}, is {given:?}", step.expected));
    }
    let mut expected = drops;
    if let Some(series) = step.series() {
        *expected.entry(series).or_default() += 1;
    }
    if host.drops != expected {
        let risen: Vec<_> = host
            .drops
            .iter()
            .filter(|(s, n)| expected.get(s) != Some(n))
            .collect();
        return Some(format!("counted as {risen:?}, not as {:?}", step.series()));
    }
    let dropped = matches!(given, Expected::Drop(_));
    (dropped && opened != self::opened(host))
        .then(|| "a dropped packet has opened a connection".into())
}

fn opened(host: &Host) -> u64 {
    host.stat(Stat::ConnectionsAllowed) + host.stat(Stat::ConnectionsAudited)
}

#[test]
fn every_row_of_the_table_holds_in_the_library() {
    let mut host = Host::default();
    let mut faults = Vec::new();
    for Row { name, steps } in rows() {
        let found = steps
            .iter()
            .enumerate()
            .find_map(|(i, step)| Some((i, fault(&mut host, step)?)));
        faults.extend(found.map(|(i, fault)| format!("{name}, step {}: {fault}", i + 1)));
    }
    assert_no_fault(&faults);
    assert_eq!(host.stat(Stat::ConnectionsNotStored), 0);
}

#[test]
fn an_auditing_agent_drops_nothing_and_tells_the_same_reasons() {
    let mut host = Host::default();
    host.control.flags = Control::AUDIT;
    let mut faults = Vec::new();
    for row in rows() {
        for step in row.audited() {
            faults.extend(fault(&mut host, &step).map(|fault| format!("{}: {fault}", row.name)));
        }
    }
    // The receiver's own verdict already reports a sender's would-be denial.
    faults.retain(|fault| !fault.contains("behind a Service") && !fault.contains("node's port"));
    assert_no_fault(&faults);
}

#[test]
fn rows_have_names_of_their_own() {
    let mut names = BTreeSet::new();
    for row in rows() {
        assert!(names.insert(row.name.clone()), "twice: {}", row.name);
    }
    println!("{} rows", names.len());
}

#[test]
fn every_reason_has_a_row() {
    let seen: BTreeSet<Reason> = rows()
        .iter()
        .flat_map(|row| &row.steps)
        .filter_map(|step| match step.expected {
            Expected::Drop(reason) => Some(reason),
            _ => None,
        })
        .collect();
    // No hook of a pod's device gives the first reason: `tests/attacks` shows it on the
    // wire. The second takes more connections than a row has.
    let others = [Reason::SpoofedFromOutside, Reason::ConnectionLimit];
    let all = Reason::ALL.iter().copied();
    let of_pods = all.filter(|reason| !others.contains(reason));
    assert_eq!(seen, of_pods.collect());
}

fn outgoing(flags: u8) -> Frame {
    let (own, peer) = (address("callee", true), address("stranger", true));
    Frame::tcp((own, 40_000), (peer, 443), flags)
}

#[track_caller]
fn assert_step(host: &mut Host, step: &Step) {
    assert_eq!(host.run(step), step.expected);
}

#[test]
fn replies_pass_however_many_unanswered_connections_one_peer_opens() {
    let (peer, client, pod) = (
        address("stranger", true),
        address("plain", true),
        address("caller", true),
    );
    let mut host = Host::default();
    let syn = Frame::tcp((client, 40_000), (pod, 80), SYN);
    assert_step(&mut host, &to_pod("caller", &syn));
    for port in 1..=20_000 {
        let frame = Frame::udp((peer, port), (pod, 53));
        assert_step(&mut host, &to_pod("caller", &frame));
        let frame = Frame::tcp((peer, port), (pod, 80), SYN);
        assert_step(&mut host, &to_pod("caller", &frame));
    }
    // Over a full table: an older connection, one of the pod that filled the table
    // last, and a new one.
    assert_step(
        &mut host,
        &from_pod("caller", &syn.reply().flags(SYN | ACK)),
    );
    for port in 19_990..=20_000 {
        let frame = Frame::udp((peer, port), (pod, 53));
        assert_step(&mut host, &to_pod("caller", &frame));
        assert_step(&mut host, &from_pod("caller", &frame.reply()));
    }
    for port in 50_000..50_200 {
        let syn = Frame::tcp((client, port), (pod, 80), SYN);
        assert_step(&mut host, &to_pod("caller", &syn));
        assert_step(
            &mut host,
            &from_pod("caller", &syn.reply().flags(SYN | ACK)),
        );
    }
}

#[test]
fn fragments_follow_their_first_one_however_many_packets_another_peer_begins() {
    let (peer, client, pod) = (
        address("stranger", true),
        address("plain", true),
        address("caller", true),
    );
    let mut host = Host::default();
    let begun = |peer, id: u16| {
        Frame::udp((peer, 9), (pod, 53)).with(|f| {
            (f.fragment, f.identification) = (0x2000, id);
            f.payload.resize(16, 0);
        })
    };
    let later =
        Frame::udp((client, 9), (pod, 53)).with(|f| (f.fragment, f.identification) = (2, 7));
    assert_step(&mut host, &to_pod("caller", &begun(client, 7)));
    for id in 0..20_000 {
        assert_step(&mut host, &to_pod("caller", &begun(peer, id)));
    }
    assert_step(&mut host, &to_pod("caller", &later));
}

#[test]
fn a_connection_past_its_timeout_counts_as_absent() {
    let mut host = Host::default();
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    let reply = to_pod("callee", &outgoing(SYN).reply().flags(SYN | ACK));
    assert_step(&mut host, &reply);
    assert_step(&mut host, &from_pod("callee", &outgoing(ACK)));
    let day = u64::from(conntrack::timeout(6, State::Replied as u8)) * SECOND;
    host.now += day;
    let data = to_pod("callee", &outgoing(SYN).reply().flags(ACK));
    assert_step(&mut host, &data);
    host.now += day + 1;
    assert_step(&mut host, &data.drops(Reason::Policy));
}

#[test]
fn a_reply_moves_a_connection_among_the_replied_ones() {
    let mut host = Host::default();
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    assert_eq!(host.connection_count(), (0, 1));
    assert_step(
        &mut host,
        &to_pod("callee", &outgoing(SYN).reply().flags(SYN | ACK)),
    );
    // A peer that only sends SYNs gets no further.
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    assert_eq!(host.connection_count(), (0, 1));
    let reply = outgoing(SYN).reply();
    assert_step(&mut host, &to_pod("callee", &reply.flags(SYN | ACK)));
    assert_step(&mut host, &from_pod("callee", &outgoing(ACK)));
    assert_eq!(host.connection_count(), (1, 0));
    // A half-closed connection is still open. An ended one makes room.
    assert_step(&mut host, &to_pod("callee", &reply.flags(ACK | 1)));
    assert_eq!(host.connection_count(), (1, 0));
    assert_step(&mut host, &from_pod("callee", &outgoing(ACK | 1)));
    assert_eq!(host.connection_count(), (0, 1));
    assert_step(&mut host, &from_pod("callee", &outgoing(ACK)));
    assert_eq!(host.connection_count(), (0, 1));
}

#[test]
fn a_strangers_range_is_remembered_until_the_next_generation() {
    let mut host = Host::default();
    let stranger: IpAddr = "198.51.100.77".parse().expect("an address");
    let syn = Frame::tcp((stranger, 40_000), (address("callee", true), 9), SYN);
    let step = to_pod("callee", &syn).drops(Reason::Policy);
    let mut sources = Vec::new();
    for turn in 0..3 {
        match turn {
            1 => host.add_range((Addr::from(stranger), 128)),
            2 => host.next_generation(),
            _ => {}
        }
        host.drops.clear();
        assert_step(&mut host, &step);
        sources.extend(host.drops.keys().map(|series| series.source.clone()));
    }
    assert_eq!(sources, ["outside", "outside", "unknown"]);
}

#[test]
fn a_revoked_connection_ends_with_its_next_packet_and_an_untouched_one_goes_on() {
    let mut host = Host::default();
    let syn = Frame::tcp(
        (address("caller", true), 40_000),
        (address("callee", true), 8080),
        SYN,
    );
    assert_step(&mut host, &to_pod("callee", &syn));
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    let callee = host.endpoint_mut("callee");
    for rules in &mut callee.rules {
        rules.ingress = u32::MAX;
        rules.epoch += 1;
    }
    assert_step(
        &mut host,
        &to_pod("callee", &syn.flags(ACK)).drops(Reason::Policy),
    );
    assert_step(
        &mut host,
        &to_pod("callee", &outgoing(SYN).reply().flags(SYN | ACK)),
    );
}

#[test]
fn quarantine_cuts_open_connections() {
    let mut host = Host::default();
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    for rules in &mut host.endpoint_mut("callee").rules {
        rules.flags |= EndpointRules::QUARANTINE;
    }
    let reply = to_pod("callee", &outgoing(SYN).reply().flags(SYN | ACK));
    assert_step(&mut host, &reply.drops(Reason::Quarantine));
}

#[test]
fn a_sender_that_loses_a_service_or_its_freedom_loses_open_connections_behind_it() {
    let caller = address("caller", true);
    let syn = Frame::tcp((caller, 40_000), (address("callee", true), 8080), SYN);
    let behind = |frame: &Frame| to_pod("callee", frame).by_pod("caller", true);
    for (flags, reason) in [
        (EndpointRules::EGRESS_ISOLATED, Reason::Policy),
        (EndpointRules::QUARANTINE, Reason::Quarantine),
    ] {
        let mut host = Host::default();
        assert_step(&mut host, &behind(&syn));
        assert_step(&mut host, &behind(&syn.flags(ACK)));
        for rules in &mut host.endpoint_mut("caller").rules {
            rules.flags = flags;
            rules.egress = u32::MAX;
            rules.epoch += 1;
        }
        let next = behind(&syn.flags(ACK)).decided_by_sender();
        assert_eq!(fault(&mut host, &next.drops(reason)), None);
    }
}

#[test]
fn what_may_lead_to_a_service_is_decided_again_behind_it_and_nothing_else_is() {
    let cases = [
        ("front", 80, true),
        ("front", 81, false),
        ("shown", 90, true),
        ("shown", 443, false),
        // A pod's address that a Service shows.
        ("plain", 90, true),
        ("plain", 91, false),
        ("callee", 90, false),
        ("other-node", 90, true),
        ("other-node", 91, true),
    ];
    for (to, port, again) in cases {
        for v4 in [true, false] {
            let mut host = Host::default();
            let syn = Frame::tcp(
                (address("staged", v4), 40_000),
                (address(to, v4), port),
                SYN,
            );
            // The first packet opens a connection, the second belongs to it.
            for flags in [SYN, ACK] {
                assert_step(&mut host, &from_pod("staged", &syn.flags(flags)));
                assert_eq!(host.service, again, "{to} {port} {flags}");
            }
        }
    }
}

#[test]
fn what_a_senders_staged_egress_would_deny_behind_a_service_is_counted_once_a_connection() {
    let syn = Frame::tcp(
        (address("caller", true), 40_000),
        (address("callee", true), 8080),
        SYN,
    );
    let behind = |frame: &Frame| to_pod("callee", frame).by_pod("caller", true);
    let mut host = Host::default();
    for rules in &mut host.endpoint_mut("caller").rules {
        rules.flags = EndpointRules::EGRESS_STAGED;
        rules.egress = u32::MAX;
    }
    let opening = behind(&syn).decided_by_sender().audits(Reason::Policy);
    assert_step(&mut host, &opening);
    assert_step(&mut host, &behind(&syn.flags(ACK)));
}

#[test]
fn what_a_sender_would_not_send_behind_a_service_is_counted_of_frames_without_a_connection_too() {
    let mut host = Host::default();
    for rules in &mut host.endpoint_mut("caller").rules {
        rules.flags = EndpointRules::EGRESS_STAGED;
        rules.egress = u32::MAX;
    }
    let (from, to) = (address("caller", true), address("plain", true));
    let later = Frame::udp((from, 40_000), (to, 53)).with(|f| f.fragment = 1);
    let behind = to_pod("plain", &later).by_pod("caller", true);
    let audited = behind.decided_by_sender().audits(Reason::Fragment);
    assert_eq!(fault(&mut host, &audited), None);
}

#[test]
fn a_masqueraded_connection_waits_for_its_opener_after_a_change() {
    let mut host = Host::default();
    let (node, callee) = (address("node", true), address("callee", true));
    let syn = Frame::tcp((node, 40_000), (callee, 8080), SYN);
    let by_caller = |frame: &Frame| to_pod("callee", frame).by_pod("caller", false);
    let answer = from_pod("callee", &syn.reply().flags(SYN | ACK));
    assert_step(&mut host, &by_caller(&syn));
    for rules in &mut host.endpoint_mut("callee").rules {
        rules.epoch += 1;
    }
    // Nothing in the answer shows that the node's address replaces the caller's.
    assert_step(&mut host, &answer);
    assert_step(&mut host, &by_caller(&syn.flags(ACK)));
    for rules in &mut host.endpoint_mut("callee").rules {
        rules.ingress = u32::MAX;
        rules.epoch += 1;
    }
    assert_step(&mut host, &by_caller(&syn.flags(ACK)).drops(Reason::Policy));
}

#[test]
fn each_buffer_is_read_by_its_own_bit() {
    let mut host = Host::default();
    host.endpoint_mut("callee").rules[1] = EndpointRules::default();
    let stray = to_pod("callee", &outgoing(SYN).reply());
    assert_step(&mut host, &stray.clone().drops(Reason::Policy));
    host.control.state = Control::state(1, 1);
    assert_step(&mut host, &stray);
}
