//! Transitions of connections and quotas.

use super::*;
use crate::packet::{sctp, tcp};

const SECOND: u64 = 100;
const MOST: u32 = Quota::REPLIED;

const fn at(now: u64) -> Clock {
    Clock {
        now,
        second: SECOND,
    }
}

/// Builds a packet without data. Sequence numbers start at 100 in egress and at 500 in ingress;
/// SCTP tags are the same in both directions.
fn packet(direction: Direction, protocol: u8, detail: u8) -> Packet {
    let mut packet = Packet {
        protocol,
        transport_len: 20,
        ..Packet::EMPTY
    };
    let (own, other) = match direction {
        Egress => (100, 500),
        Ingress => (500, 100),
    };
    match protocol {
        protocol::TCP => {
            assert!(packet.set_tcp(own, other, 5 << 28 | u32::from(detail) << 16));
        }
        protocol::SCTP => {
            packet.detail = detail;
            packet.mark_sctp(7_u32.to_be());
        }
        _ => packet.mark_udp(),
    }
    packet
}

/// A connection that a pod has opened.
fn begun(protocol: u8, now: u64) -> SharedConnection {
    let connection = SharedConnection::default();
    let opened = opened(Egress, protocol, 1, 0, 60, now);
    // Opened by a SYN with number 99.
    let numbers = [0, 99 << 32];
    connection.set(&Connection { numbers, ..opened });
    connection
}

fn after(steps: &[(Direction, u8)], protocol: u8) -> SharedConnection {
    let connection = begun(protocol, 0);
    for (direction, detail) in steps {
        let packet = packet(*direction, protocol, *detail);
        advance(&connection, *direction, &packet, 60, 0);
    }
    connection
}

use Direction::{Egress, Ingress};

#[test]
fn an_answer_makes_a_datagram_connection_a_replied_one() {
    let connection = begun(protocol::UDP, 5);
    let datagram = packet(Egress, protocol::UDP, 0);
    advance(&connection, Egress, &datagram, 60, 6);
    assert_eq!(connection.state.get(), State::Opening as u8);
    advance(&connection, Ingress, &datagram, 60, 7);
    assert_eq!(connection.state.get(), State::Replied as u8);
    let by_direction = |counts: &[Shared<u64>; 2]| [counts[0].get(), counts[1].get()];
    assert_eq!(by_direction(&connection.packets), [1, 2]);
    assert_eq!(by_direction(&connection.bytes), [60, 120]);
}

#[test]
fn a_connection_is_replied_once_its_opener_has_heard_the_answer() {
    let mut steps = vec![(Ingress, tcp::SYN | tcp::ACK)];
    assert_eq!(
        after(&steps, protocol::TCP).state.get(),
        State::Answered as u8
    );
    // A second SYN proves nothing.
    steps.push((Egress, tcp::SYN));
    assert_eq!(
        after(&steps, protocol::TCP).state.get(),
        State::Answered as u8
    );
    steps.push((Egress, tcp::ACK));
    assert_eq!(
        after(&steps, protocol::TCP).state.get(),
        State::Replied as u8
    );
}

#[test]
fn what_ends_a_connection_shortens_its_life() {
    let open = [(Ingress, tcp::ACK), (Egress, tcp::ACK)];
    assert!(!after(&open, protocol::TCP).expired(at(3600 * SECOND)));
    let fin = tcp::FIN | tcp::ACK;
    for ends in [
        &[(Ingress, tcp::RST)][..],
        &[(Egress, tcp::RST | tcp::ACK)],
        &[(Ingress, fin), (Egress, fin)],
        &[(Egress, fin), (Ingress, fin)],
    ] {
        let connection = after(&[&open[..], ends].concat(), protocol::TCP);
        assert!(connection.expired(at(121 * SECOND)), "{ends:?}");
        assert!(!connection.expired(at(120 * SECOND)), "{ends:?}");
    }
    for chunk in [sctp::ABORT, sctp::SHUTDOWN, sctp::SHUTDOWN_COMPLETE] {
        let connection = after(&[(Ingress, 0), (Egress, chunk)], protocol::SCTP);
        assert_eq!(connection.state.get(), State::Closing as u8);
    }
    // The same bits in another protocol mean nothing.
    let connection = after(&[(Ingress, 0), (Egress, tcp::RST)], protocol::UDP);
    assert_eq!(connection.state.get(), State::Replied as u8);
}

#[test]
fn a_connection_that_one_side_has_ended_lives_for_an_hour_more() {
    for side in [Egress, Ingress] {
        let mut steps = vec![(Ingress, tcp::ACK), (Egress, tcp::ACK)];
        // A repeated FIN changes nothing.
        steps.extend([(side, tcp::FIN | tcp::ACK); 3]);
        let connection = after(&steps, protocol::TCP);
        assert!(!connection.expired(at(3600 * SECOND)), "{side:?}");
        assert!(connection.expired(at(3601 * SECOND)), "{side:?}");
    }
}

#[test]
fn an_association_ends_by_its_own_tag_alone() {
    let connection = after(&[(Ingress, 0), (Egress, 0)], protocol::SCTP);
    let mut stray = packet(Ingress, protocol::SCTP, sctp::ABORT);
    stray.mark_sctp(8_u32.to_be());
    advance(&connection, Ingress, &stray, 60, 0);
    assert_eq!(connection.state.get(), State::Replied as u8);
}

#[test]
fn an_end_that_nobody_answered_leaves_the_connection_opening() {
    for flag in [tcp::FIN, tcp::RST] {
        let connection = after(&[(Egress, flag)], protocol::TCP);
        assert_eq!(connection.state.get(), State::Opening as u8);
    }
}

#[test]
fn a_connection_from_a_faster_clock_is_fresh() {
    assert!(!begun(protocol::UDP, 100).expired(at(99)));
    let connection = opened(Egress, protocol::UDP, 1, 0, 60, 100);
    assert!(!expired(&connection, at(99)), "for the agent, too");
}

#[test]
fn what_has_ended_holds_its_way_no_longer_than_what_begins() {
    let begun = begun(protocol::TCP, 0);
    let ended = after(
        &[(Ingress, tcp::ACK), (Egress, tcp::ACK), (Egress, tcp::RST)],
        protocol::TCP,
    );
    assert!(lease(&ended) <= lease(&begun), "{ended:?}");
    assert!(lease(&ended) < ended.timeout.get());
}

#[test]
fn what_is_picked_up_waits_for_its_opener_and_no_reset_confirms_it() {
    let connection = begun(protocol::TCP, 0);
    connection.state.set(State::PickedUp as u8);
    for (direction, detail) in [
        (Ingress, tcp::ACK),
        (Egress, tcp::RST),
        (Egress, tcp::FIN | tcp::ACK),
    ] {
        let packet = packet(direction, protocol::TCP, detail);
        advance(&connection, direction, &packet, 60, 0);
        assert_eq!(connection.state.get(), State::PickedUp as u8);
    }
    advance(
        &connection,
        Egress,
        &packet(Egress, protocol::TCP, tcp::ACK),
        60,
        0,
    );
    assert_eq!(connection.state.get(), State::Replied as u8);
}

#[test]
fn replied_connections_are_kept_up_to_a_number_and_those_that_expired_make_room() {
    let quota = SharedQuota::default();
    quota.endpoint.set(7);
    quota.replied.set(Quota::REPLIED - 1);
    assert!(quota.may_keep(7, MOST, 0, 0));
    quota.keep();
    assert!(!quota.may_keep(7, MOST, 0, 0));
    assert!(quota.may_keep(7, MOST, 1, 0));
    assert!(
        quota.may_keep(7, MOST, Quota::REPLIED * 2, 0),
        "more gone than counted"
    );
    quota.let_go();
    assert!(quota.may_keep(7, MOST, 0, 0));
}

#[test]
fn datagrams_leave_connections_some_room() {
    let quota = SharedQuota::default();
    quota.endpoint.set(7);
    quota.replied.set(Quota::REPLIED_BRIEF);
    assert!(!quota.may_keep(7, Quota::REPLIED_BRIEF, 0, 0));
    assert!(quota.may_keep(7, MOST, 0, 0));
}

#[test]
fn greedy_endpoints_leave_as_much_room_as_each_of_them_has() {
    for greedy in [2, 5, 100_u32] {
        let quotas = vec![SharedQuota::default(); greedy as usize];
        let all = SharedQuota::default();
        loop {
            let before = all.replied.get();
            for (endpoint, quota) in (1..).zip(&quotas) {
                if quota.may_keep(endpoint, MOST, 0, all.kept(0)) {
                    quota.keep();
                    all.keep();
                }
            }
            if all.replied.get() == before {
                break;
            }
        }
        let left = Quota::ALL_REPLIED - all.replied.get();
        let most = quotas.iter().map(|quota| quota.replied.get()).max();
        let most = most.expect("there are some");
        assert!(left >= most - 1, "{greedy} leave {left}, one has {most}");
        assert!(SharedQuota::default().may_keep(greedy + 1, MOST, 0, all.kept(0)));
    }
}

#[test]
fn an_endpoint_claims_few_addresses() {
    let quota = SharedQuota::default();
    for _ in 0..Quota::CLAIMS {
        assert!(quota.claim(7));
    }
    assert!(!quota.claim(7));
    assert!(quota.claim(8));
}
