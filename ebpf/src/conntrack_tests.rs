//! Transitions of flows and quotas.

use super::*;
use crate::packet::{sctp, tcp};

const SECOND: u64 = 100;

const fn at(now: u64) -> Clock {
    Clock {
        now,
        second: SECOND,
    }
}

fn packet(protocol: u8, detail: u8) -> Packet {
    let mut packet = Packet {
        protocol,
        detail,
        ..Packet::EMPTY
    };
    match protocol {
        protocol::TCP => packet.mark_tcp(),
        protocol::SCTP => packet.mark_sctp(),
        _ => packet.mark_udp(),
    }
    packet
}

fn after(steps: &[(Direction, u8)], protocol: u8) -> Flow {
    let mut flow = opened(Egress, protocol, 1, 0, 60, 0);
    for (direction, detail) in steps {
        advance(&mut flow, *direction, &packet(protocol, *detail), 60, 0);
    }
    flow
}

use Direction::{Egress, Ingress};

#[test]
fn an_answer_makes_a_datagram_flow_a_replied_one() {
    let mut flow = opened(Egress, protocol::UDP, 1, 0, 60, 5);
    let datagram = packet(protocol::UDP, 0);
    advance(&mut flow, Egress, &datagram, 60, 6);
    assert_eq!(flow.state, State::Opening as u8);
    advance(&mut flow, Ingress, &datagram, 60, 7);
    assert_eq!(flow.state, State::Replied as u8);
    assert_eq!(flow.packets, [1, 2]);
    assert_eq!(flow.bytes, [60, 120]);
}

#[test]
fn a_connection_is_replied_once_its_opener_has_heard_the_answer() {
    let mut steps = vec![(Ingress, tcp::SYN | tcp::ACK)];
    assert_eq!(after(&steps, protocol::TCP).state, State::Answered as u8);
    // A second SYN shows nothing.
    steps.push((Egress, tcp::SYN));
    assert_eq!(after(&steps, protocol::TCP).state, State::Answered as u8);
    steps.push((Egress, tcp::ACK));
    assert_eq!(after(&steps, protocol::TCP).state, State::Replied as u8);
}

#[test]
fn what_ends_a_connection_shortens_its_life() {
    let open = [(Ingress, tcp::ACK), (Egress, tcp::ACK)];
    assert!(!expired(&after(&open, protocol::TCP), at(3600 * SECOND)));
    for flag in [tcp::FIN, tcp::RST] {
        let flow = after(&[open[0], open[1], (Ingress, flag)], protocol::TCP);
        assert!(expired(&flow, at(121 * SECOND)));
        assert!(!expired(&flow, at(120 * SECOND)));
    }
    for chunk in [sctp::ABORT, sctp::SHUTDOWN, sctp::SHUTDOWN_COMPLETE] {
        let flow = after(&[(Ingress, 0), (Egress, chunk)], protocol::SCTP);
        assert_eq!(flow.state, State::Closing as u8);
    }
    // The same bits in another protocol mean nothing.
    let flow = after(&[(Ingress, 0), (Egress, tcp::RST)], protocol::UDP);
    assert_eq!(flow.state, State::Replied as u8);
}

#[test]
fn an_end_that_nobody_answered_leaves_the_flow_opening() {
    for flag in [tcp::FIN, tcp::RST] {
        let flow = after(&[(Egress, flag)], protocol::TCP);
        assert_eq!(flow.state, State::Opening as u8);
    }
}

#[test]
fn a_flow_from_a_faster_clock_is_fresh() {
    let flow = opened(Egress, protocol::UDP, 1, 0, 60, 100);
    assert!(!expired(&flow, at(99)));
}

#[test]
fn an_endpoint_opens_so_many_flows_that_nobody_answers_and_more_when_time_has_passed() {
    let mut quota = Quota::default();
    for _ in 0..Quota::OPENING {
        assert!(quota.open(7, Egress, at(0)));
    }
    assert!(!quota.open(7, Egress, at(0)), "over the quota");
    assert!(quota.open(7, Ingress, at(0)), "peers have one of their own");
    quota.answered(7, Egress);
    assert!(quota.open(7, Egress, at(0)), "an answer makes room");
    let window = Quota::WINDOW * SECOND;
    assert!(
        !quota.open(7, Egress, at(window)),
        "the last window still counts"
    );
    assert!(quota.open(7, Egress, at(2 * window)), "but not for ever");
    assert!(
        quota.open(8, Egress, at(0)),
        "another endpoint starts from nothing"
    );
    assert_eq!(quota.opened, [0, 1]);
}

#[test]
fn answers_are_taken_off_the_window_before_too() {
    let mut quota = Quota::default();
    for _ in 0..Quota::OPENING {
        assert!(quota.open(7, Egress, at(0)));
    }
    let later = at(Quota::WINDOW * SECOND);
    assert!(!quota.open(7, Egress, later));
    quota.answered(7, Egress);
    assert!(quota.open(7, Egress, later));
    assert!(!quota.open(7, Egress, later));
}

#[test]
fn replied_flows_are_kept_up_to_a_number_and_those_that_expired_make_room() {
    let mut quota = Quota {
        endpoint: 7,
        replied: Quota::REPLIED - 1,
        ..Quota::default()
    };
    assert!(quota.reply(7, 0));
    assert!(!quota.reply(7, 0));
    assert!(quota.reply(7, 1));
    assert!(quota.reply(7, Quota::REPLIED * 2), "more gone than counted");
}

#[test]
fn an_endpoint_claims_few_addresses() {
    let mut quota = Quota::default();
    for _ in 0..Quota::CLAIMS {
        assert!(quota.claim(7));
    }
    assert!(!quota.claim(7));
    assert!(quota.claim(8));
}
