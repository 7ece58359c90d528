//! State changes of a connection: packets that start, answer or end it, checked by their numbers.
//! A segment that neither end's TCP would accept must not shorten a connection's life.
//!
//! What a side accepts follows from its own last packet: the number that it acknowledged is the
//! next one that it expects. So a sender that controls only one side can't determine what is
//! accepted as that side's segments.

use super::{ANSWERS_ANEW, State, UNBELIEVED, timeout};
use crate::abi::Direction;
use crate::packet::{Packet, mark, protocol, tcp};
use crate::shared::SharedConnection;

/// Maximum number of unacknowledged bytes in flight; a number further off counts as stray.
const REACH: u32 = 1 << 24;
/// Maximum number of data bytes in a SYN (RFC 7413), plus one for the SYN itself.
const OF_SYN: u32 = 2048;

/// Accounts a packet that may change a connection's state; see [`super::advance`].
#[inline(never)]
pub(super) fn turn(
    connection: &SharedConnection,
    direction: Direction,
    packet: &Packet,
    now: u64,
) -> u8 {
    let before = connection.state.get();
    let state = next(connection, before, direction, packet);
    if state == UNBELIEVED {
        return before;
    }
    if state == ANSWERS_ANEW {
        return state;
    }
    connection.last_seen.set(now);
    let numbers = packet.numbers;
    let fin = packet.protocol == protocol::TCP && packet.detail & tcp::FIN != 0;
    // A FIN consumes one sequence number.
    let behind = if fin {
        numbers.wrapping_add(1 << 32)
    } else {
        numbers
    };
    if direction as u8 == Direction::Ingress as u8 {
        connection.numbers[0].set(behind);
    } else {
        connection.numbers[1].set(behind);
    }
    if state != before {
        connection.state.set(state);
        connection.timeout.set(timeout(packet.protocol, state));
    }
    state
}

/// Reports whether a SYN-ACK answers the SYN that opened a connection.
#[inline(always)]
pub fn answers(connection: &SharedConnection, direction: Direction, packet: &Packet) -> bool {
    let opening = connection.state.get() == State::Opening as u8;
    opening
        && connection.opened_by.get() != direction as u8
        && acknowledges(connection, direction.reverse(), packet)
}

/// Returns the state of a connection after a packet, or [`ANSWERS_ANEW`] or [`UNBELIEVED`].
#[inline(always)]
fn next(connection: &SharedConnection, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let by_opener = connection.opened_by.get() == direction as u8;
    let turns = packet.is(mark::TURNS);
    if before == State::PickedUp as u8 {
        // A reset reports that there is no such connection.
        return if by_opener && !turns {
            State::Replied as u8
        } else {
            before
        };
    }
    if !turns {
        return heard(before, by_opener, packet);
    }
    if packet.protocol != protocol::TCP {
        return abort(connection, before, direction, packet);
    }
    if packet.detail & tcp::RST != 0 {
        return reset(connection, before, direction, packet);
    }
    if packet.detail & tcp::FIN != 0 {
        return fin(connection, before, direction, packet);
    }
    // A SYN-ACK.
    if before == State::Opening as u8 && !acknowledges(connection, direction.reverse(), packet) {
        return UNBELIEVED;
    }
    if before == State::Opening as u8 || before == State::Answered as u8 {
        return heard(before, by_opener, packet);
    }
    ANSWERS_ANEW
}

/// Returns the state after a packet that neither answers a SYN nor ends the connection.
#[inline(always)]
fn heard(before: u8, by_opener: bool, packet: &Packet) -> u8 {
    if before == State::Opening as u8 {
        // An unanswered connection stays in its state, whatever its opener sends: an opener alone
        // must not be able to fill the table of replied connections.
        return match (by_opener, packet.is(mark::SHAKES)) {
            (true, _) => before,
            (false, true) => State::Answered as u8,
            (false, false) => State::Replied as u8,
        };
    }
    if before == State::Answered as u8 && by_opener && !packet.is(mark::STARTS) {
        return State::Replied as u8;
    }
    before
}

/// Returns the state after a reset.
#[inline(always)]
fn reset(connection: &SharedConnection, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let by_opener = connection.opened_by.get() == direction as u8;
    let believed = if before == State::Opening as u8 {
        if by_opener {
            return UNBELIEVED;
        }
        // A refusal proves that its sender received the SYN (RFC 9293, 3.10.7.3).
        let refusal = packet.detail & tcp::ACK != 0;
        refusal && acknowledges(connection, direction.reverse(), packet)
            || awaited(connection, direction.reverse()) != 0
                && fits(connection, before, direction, packet)
    } else {
        fits(connection, before, direction, packet)
    };
    if believed {
        State::Closing as u8
    } else {
        UNBELIEVED
    }
}

/// Returns the state after a FIN. No end would accept one without ACK, or one that acknowledges
/// data that was never sent.
#[inline(always)]
fn fin(connection: &SharedConnection, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let by_opener = connection.opened_by.get() == direction as u8;
    let acknowledged = packet.numbers as u32;
    let off = acknowledged.wrapping_sub(sent(connection, direction.reverse()));
    let plausible = packet.detail & tcp::ACK != 0 && off.wrapping_add(REACH) < 2 * REACH;
    if !plausible || !fits(connection, before, direction, packet) {
        return UNBELIEVED;
    }
    let state = heard(before, by_opener, packet);
    let (own, other) = if by_opener {
        (State::OpenerDone as u8, State::OtherDone as u8)
    } else {
        (State::OtherDone as u8, State::OpenerDone as u8)
    };
    if state == other {
        State::Closing as u8
    } else if state == State::Replied as u8 {
        own
    } else {
        state
    }
}

/// Returns the state after an SCTP chunk that ends an association. Such a chunk carries the tag
/// that its sender uses, or the one that its sender received (RFC 9260, 8.5.1).
#[inline(always)]
fn abort(connection: &SharedConnection, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let tag = (packet.numbers >> 32) as u32;
    let known = tag == sent(connection, direction) || tag == sent(connection, direction.reverse());
    if before == State::Opening as u8 || !known {
        UNBELIEVED
    } else {
        State::Closing as u8
    }
}

/// Reports whether a RST or FIN is within what its receiver expects: it starts at the number up
/// to which the receiver has acknowledged everything, or within the data sent since then and not
/// acknowledged yet. A FIN may be retransmitted together with data that has already arrived.
#[inline(always)]
fn fits(connection: &SharedConnection, before: u8, direction: Direction, packet: &Packet) -> bool {
    let by_opener = connection.opened_by.get() == direction as u8;
    let unheard = before == State::Answered as u8 && !by_opener;
    let sent = sent(connection, direction);
    // A side that has only sent a SYN has acknowledged nothing.
    let (awaited, under_way) = if unheard {
        (sent, 1)
    } else {
        let awaited = awaited(connection, direction.reverse());
        (awaited, sent.wrapping_sub(awaited))
    };
    let under_way = if under_way < REACH { under_way } else { 0 };
    let begins = ((packet.numbers >> 32) as u32).wrapping_sub(packet.payload);
    let again = packet.detail & tcp::RST == 0 && awaited.wrapping_sub(begins) <= packet.payload;
    again || begins.wrapping_sub(awaited) <= under_way
}

/// Reports whether a packet acknowledges a SYN that was the last packet of the other side.
#[inline(always)]
fn acknowledges(connection: &SharedConnection, of: Direction, packet: &Packet) -> bool {
    let behind = sent(connection, of).wrapping_add(1);
    behind.wrapping_sub(packet.numbers as u32) < OF_SYN
}

/// Returns the number after the last byte of a side, which is given by the direction of its
/// packets.
#[inline(always)]
fn sent(connection: &SharedConnection, by: Direction) -> u32 {
    (numbers(connection, by) >> 32) as u32
}

/// Returns the next number that a side expects.
#[inline(always)]
fn awaited(connection: &SharedConnection, by: Direction) -> u32 {
    numbers(connection, by) as u32
}

#[inline(always)]
fn numbers(connection: &SharedConnection, by: Direction) -> u64 {
    if by as u8 == Direction::Ingress as u8 {
        connection.numbers[0].get()
    } else {
        connection.numbers[1].get()
    }
}
