//! What a packet does to a flow, and how long a flow lives: pure transitions,
//! the clock is passed in.

use crate::abi::{Direction, Flow};
use crate::packet::{protocol, tcp};

const SECOND: u64 = 1_000_000_000;

/// How far a connection has come.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Only its opener has been heard.
    Opening = 0,
    /// Both sides have been heard.
    Replied = 1,
    /// TCP: one side has sent FIN or RST.
    Closing = 2,
}

/// How long a flow lives after its last packet, in nanoseconds.
///
/// An entry past its timeout counts as absent, so none of this needs an agent.
/// The values are conntrack's habits (nf_conntrack, Linux 6.18) but for
/// established TCP, which lives 24 h instead of 5 days.
#[inline(always)]
pub const fn timeout(protocol_number: u8, state: u8) -> u64 {
    let replied = state == State::Replied as u8;
    let closing = state == State::Closing as u8;
    SECOND
        * match protocol_number {
            protocol::TCP | protocol::SCTP if replied => 24 * 3600,
            protocol::TCP if closing => 120,
            protocol::TCP | protocol::SCTP => 60,
            protocol::UDP if replied => 180,
            protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 30,
            _ => 600,
        }
}

/// Whether the flow counts as absent at `now`.
///
/// Coarse clocks of two CPUs may differ by a tick: a flow from the future is fresh.
#[inline(always)]
pub const fn expired(flow: &Flow, protocol_number: u8, now: u64) -> bool {
    now.saturating_sub(flow.last_seen) > timeout(protocol_number, flow.state)
}

/// Takes an allowed packet into account. `tcp_flags` is 0 for other protocols.
#[inline(always)]
pub fn advance(flow: &mut Flow, direction: Direction, tcp_flags: u8, len: u32, now: u64) {
    match direction {
        Direction::Ingress => {
            flow.packets[0] = flow.packets[0].wrapping_add(1);
            flow.bytes[0] = flow.bytes[0].wrapping_add(u64::from(len));
        }
        Direction::Egress => {
            flow.packets[1] = flow.packets[1].wrapping_add(1);
            flow.bytes[1] = flow.bytes[1].wrapping_add(u64::from(len));
        }
    }
    flow.last_seen = now;
    if flow.state == State::Opening as u8 && flow.opened_by != direction as u8 {
        flow.state = State::Replied as u8;
    }
    // An unanswered flow stays what it is: its opener alone must not be able to
    // fill the table of replied ones.
    if tcp_flags & (tcp::FIN | tcp::RST) != 0 && flow.state != State::Opening as u8 {
        flow.state = State::Closing as u8;
    }
}

/// A flow that a packet has just opened.
#[inline(always)]
pub fn opened(direction: Direction, epoch: u32, peer: u32, len: u32, now: u64) -> Flow {
    let (ingress, egress) = match direction {
        Direction::Ingress => (1, 0),
        Direction::Egress => (0, 1),
    };
    Flow {
        last_seen: now,
        opened: now,
        packets: [ingress, egress],
        bytes: [ingress * u64::from(len), egress * u64::from(len)],
        epoch,
        peer,
        opened_by: direction as u8,
        state: State::Opening as u8,
        flags: 0,
        pad: [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_turns_an_opening_flow_into_a_replied_one() {
        let mut flow = opened(Direction::Egress, 1, 0, 60, 5);
        advance(&mut flow, Direction::Egress, 0, 60, 6);
        assert_eq!(flow.state, State::Opening as u8);
        advance(&mut flow, Direction::Ingress, 0, 60, 7);
        assert_eq!(flow.state, State::Replied as u8);
        assert_eq!(flow.packets, [1, 2]);
        assert_eq!(flow.bytes, [60, 120]);
    }

    #[test]
    fn fin_and_rst_shorten_the_life_of_a_flow() {
        for flag in [tcp::FIN, tcp::RST] {
            let mut flow = opened(Direction::Egress, 1, 0, 60, 0);
            advance(&mut flow, Direction::Ingress, tcp::ACK, 60, 0);
            assert!(!expired(&flow, protocol::TCP, 3600 * SECOND));
            advance(&mut flow, Direction::Ingress, flag, 60, 0);
            assert!(expired(&flow, protocol::TCP, 121 * SECOND));
        }
    }

    #[test]
    fn a_fin_or_rst_that_nobody_answered_leaves_the_flow_opening() {
        for flag in [tcp::FIN, tcp::RST] {
            let mut flow = opened(Direction::Egress, 1, 0, 60, 0);
            advance(&mut flow, Direction::Egress, flag, 60, 0);
            assert_eq!(flow.state, State::Opening as u8);
        }
    }

    #[test]
    fn a_flow_from_a_faster_clock_is_fresh() {
        let flow = opened(Direction::Egress, 1, 0, 60, 100);
        assert!(!expired(&flow, protocol::UDP, 99));
    }
}
