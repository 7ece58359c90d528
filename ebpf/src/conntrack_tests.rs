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

/// One that a pod has opened.
fn begun(protocol: u8, now: u64) -> SharedFlow {
    let flow = SharedFlow::default();
    flow.set(&opened(Egress, protocol, 1, 0, 60, now));
    flow
}

fn after(steps: &[(Direction, u8)], protocol: u8) -> SharedFlow {
    let flow = begun(protocol, 0);
    for (direction, detail) in steps {
        advance(&flow, *direction, &packet(protocol, *detail), 60, 0);
    }
    flow
}

use Direction::{Egress, Ingress};

#[test]
fn an_answer_makes_a_datagram_flow_a_replied_one() {
    let flow = begun(protocol::UDP, 5);
    let datagram = packet(protocol::UDP, 0);
    advance(&flow, Egress, &datagram, 60, 6);
    assert_eq!(flow.state.get(), State::Opening as u8);
    advance(&flow, Ingress, &datagram, 60, 7);
    assert_eq!(flow.state.get(), State::Replied as u8);
    let by_direction = |counts: &[Shared<u64>; 2]| [counts[0].get(), counts[1].get()];
    assert_eq!(by_direction(&flow.packets), [1, 2]);
    assert_eq!(by_direction(&flow.bytes), [60, 120]);
}

#[test]
fn a_connection_is_replied_once_its_opener_has_heard_the_answer() {
    let mut steps = vec![(Ingress, tcp::SYN | tcp::ACK)];
    assert_eq!(
        after(&steps, protocol::TCP).state.get(),
        State::Answered as u8
    );
    // A second SYN shows nothing.
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
    for flag in [tcp::FIN, tcp::RST] {
        let flow = after(&[open[0], open[1], (Ingress, flag)], protocol::TCP);
        assert!(flow.expired(at(121 * SECOND)));
        assert!(!flow.expired(at(120 * SECOND)));
    }
    for chunk in [sctp::ABORT, sctp::SHUTDOWN, sctp::SHUTDOWN_COMPLETE] {
        let flow = after(&[(Ingress, 0), (Egress, chunk)], protocol::SCTP);
        assert_eq!(flow.state.get(), State::Closing as u8);
    }
    // The same bits in another protocol mean nothing.
    let flow = after(&[(Ingress, 0), (Egress, tcp::RST)], protocol::UDP);
    assert_eq!(flow.state.get(), State::Replied as u8);
}

#[test]
fn an_end_that_nobody_answered_leaves_the_flow_opening() {
    for flag in [tcp::FIN, tcp::RST] {
        let flow = after(&[(Egress, flag)], protocol::TCP);
        assert_eq!(flow.state.get(), State::Opening as u8);
    }
}

#[test]
fn a_flow_from_a_faster_clock_is_fresh() {
    assert!(!begun(protocol::UDP, 100).expired(at(99)));
    let flow = opened(Egress, protocol::UDP, 1, 0, 60, 100);
    assert!(!expired(&flow, at(99)), "for the agent, too");
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
    let flow = begun(protocol::TCP, 0);
    flow.state.set(State::PickedUp as u8);
    for (direction, detail) in [
        (Ingress, tcp::ACK),
        (Egress, tcp::RST),
        (Egress, tcp::FIN | tcp::ACK),
    ] {
        advance(&flow, direction, &packet(protocol::TCP, detail), 60, 0);
        assert_eq!(flow.state.get(), State::PickedUp as u8);
    }
    advance(&flow, Egress, &packet(protocol::TCP, tcp::ACK), 60, 0);
    assert_eq!(flow.state.get(), State::Replied as u8);
}

#[test]
fn replied_flows_are_kept_up_to_a_number_and_those_that_expired_make_room() {
    let quota = SharedQuota::default();
    quota.endpoint.set(7);
    quota.replied.set(Quota::REPLIED - 1);
    assert!(quota.may_keep(7, 0, 0));
    quota.keep();
    assert!(!quota.may_keep(7, 0, 0));
    assert!(quota.may_keep(7, 1, 0));
    assert!(
        quota.may_keep(7, Quota::REPLIED * 2, 0),
        "more gone than counted"
    );
    quota.let_go();
    assert!(quota.may_keep(7, 0, 0));
}

#[test]
fn greedy_endpoints_leave_as_much_room_as_each_of_them_has() {
    for greedy in [2, 5, 100_u32] {
        let quotas = vec![SharedQuota::default(); greedy as usize];
        let all = SharedQuota::default();
        loop {
            let before = all.replied.get();
            for (endpoint, quota) in (1..).zip(&quotas) {
                if quota.may_keep(endpoint, 0, all.kept(0)) {
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
        assert!(SharedQuota::default().may_keep(greedy + 1, 0, all.kept(0)));
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
