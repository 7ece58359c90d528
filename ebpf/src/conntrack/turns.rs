//! What begins a connection, answers it or ends it, by its numbers: a segment that neither
//! end's TCP would take must not shorten a connection's life.
//!
//! What a side would take is known from its own last word: the number that it has
//! acknowledged is the next one that it waits for. So nobody who speaks for one side only
//! can say what that side's segments are to look like.

use super::{ANSWERS_ANEW, State, UNBELIEVED, timeout};
use crate::abi::Direction;
use crate::packet::{Packet, mark, protocol, tcp};
use crate::shared::SharedFlow;

/// Bytes that may be under way and not acknowledged: more is taken for a stray number.
const REACH: u32 = 1 << 24;
/// Bytes of data that a SYN may carry (RFC 7413), and one for itself.
const OF_SYN: u32 = 2048;

/// Takes into account what may change a flow's state; see [`super::advance`].
#[inline(never)]
pub(super) fn turn(flow: &SharedFlow, direction: Direction, packet: &Packet, now: u64) -> u8 {
    let before = flow.state.get();
    let state = next(flow, before, direction, packet);
    if state == UNBELIEVED {
        return before;
    }
    if state == ANSWERS_ANEW {
        return state;
    }
    flow.last_seen.set(now);
    let numbers = packet.numbers;
    let fin = packet.protocol == protocol::TCP && packet.detail & tcp::FIN != 0;
    // A FIN takes a number of its own.
    let behind = if fin {
        numbers.wrapping_add(1 << 32)
    } else {
        numbers
    };
    if direction as u8 == Direction::Ingress as u8 {
        flow.numbers[0].set(behind);
    } else {
        flow.numbers[1].set(behind);
    }
    if state != before {
        flow.state.set(state);
        flow.timeout.set(timeout(packet.protocol, state));
    }
    state
}

/// Whether a SYN-ACK answers the SYN that has opened a flow.
#[inline(always)]
pub fn answers(flow: &SharedFlow, direction: Direction, packet: &Packet) -> bool {
    let opening = flow.state.get() == State::Opening as u8;
    opening
        && flow.opened_by.get() != direction as u8
        && acknowledges(flow, direction.reverse(), packet)
}

/// The state of a flow after a packet, or one of the two numbers that are none.
#[inline(always)]
fn next(flow: &SharedFlow, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let by_opener = flow.opened_by.get() == direction as u8;
    let turns = packet.is(mark::TURNS);
    if before == State::PickedUp as u8 {
        // A reset says that there is no such connection.
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
        return abort(flow, before, direction, packet);
    }
    if packet.detail & tcp::RST != 0 {
        return reset(flow, before, direction, packet);
    }
    if packet.detail & tcp::FIN != 0 {
        return fin(flow, before, direction, packet);
    }
    // A SYN-ACK.
    if before == State::Opening as u8 && !acknowledges(flow, direction.reverse(), packet) {
        return UNBELIEVED;
    }
    if before == State::Opening as u8 || before == State::Answered as u8 {
        return heard(before, by_opener, packet);
    }
    ANSWERS_ANEW
}

/// The state after a packet that neither answers a SYN nor ends anything.
#[inline(always)]
fn heard(before: u8, by_opener: bool, packet: &Packet) -> u8 {
    if before == State::Opening as u8 {
        // An unanswered flow stays what it is, whatever its opener sends: alone it must
        // not be able to fill the table of replied ones.
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

/// After a reset.
#[inline(always)]
fn reset(flow: &SharedFlow, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let by_opener = flow.opened_by.get() == direction as u8;
    let believed = if before == State::Opening as u8 {
        if by_opener {
            return UNBELIEVED;
        }
        // A refusal shows that its sender got the SYN (RFC 9293, 3.10.7.3).
        let refusal = packet.detail & tcp::ACK != 0;
        refusal && acknowledges(flow, direction.reverse(), packet)
            || awaited(flow, direction.reverse()) != 0 && fits(flow, before, direction, packet)
    } else {
        fits(flow, before, direction, packet)
    };
    if believed {
        State::Closing as u8
    } else {
        UNBELIEVED
    }
}

/// After a FIN. Without ACK no end would take it, nor where it acknowledges what was never
/// sent.
#[inline(always)]
fn fin(flow: &SharedFlow, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let by_opener = flow.opened_by.get() == direction as u8;
    let acknowledged = packet.numbers as u32;
    let off = acknowledged.wrapping_sub(sent(flow, direction.reverse()));
    let plausible = packet.detail & tcp::ACK != 0 && off.wrapping_add(REACH) < 2 * REACH;
    if !plausible || !fits(flow, before, direction, packet) {
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

/// After an SCTP chunk that ends an association: it shows the tag that its sender uses, or
/// the one that it was sent (RFC 9260, 8.5.1).
#[inline(always)]
fn abort(flow: &SharedFlow, before: u8, direction: Direction, packet: &Packet) -> u8 {
    let tag = (packet.numbers >> 32) as u32;
    let known = tag == sent(flow, direction) || tag == sent(flow, direction.reverse());
    if before == State::Opening as u8 || !known {
        UNBELIEVED
    } else {
        State::Closing as u8
    }
}

/// Whether a RST or FIN is what its receiver waits for: it begins where the receiver has
/// acknowledged everything, or in what was sent since and isn't acknowledged. A FIN may
/// come again together with data that has arrived.
#[inline(always)]
fn fits(flow: &SharedFlow, before: u8, direction: Direction, packet: &Packet) -> bool {
    let by_opener = flow.opened_by.get() == direction as u8;
    let unheard = before == State::Answered as u8 && !by_opener;
    let sent = sent(flow, direction);
    // Who has only sent a SYN has acknowledged nothing.
    let (awaited, under_way) = if unheard {
        (sent, 1)
    } else {
        let awaited = awaited(flow, direction.reverse());
        (awaited, sent.wrapping_sub(awaited))
    };
    let under_way = if under_way < REACH { under_way } else { 0 };
    let begins = ((packet.numbers >> 32) as u32).wrapping_sub(packet.payload);
    let again = packet.detail & tcp::RST == 0 && awaited.wrapping_sub(begins) <= packet.payload;
    again || begins.wrapping_sub(awaited) <= under_way
}

/// Whether a packet acknowledges a SYN that was the last word of the other side.
#[inline(always)]
fn acknowledges(flow: &SharedFlow, of: Direction, packet: &Packet) -> bool {
    let behind = sent(flow, of).wrapping_add(1);
    behind.wrapping_sub(packet.numbers as u32) < OF_SYN
}

/// The number behind the last byte of a side, given by the direction of its packets.
#[inline(always)]
fn sent(flow: &SharedFlow, by: Direction) -> u32 {
    (numbers(flow, by) >> 32) as u32
}

/// The number that a side waits for.
#[inline(always)]
fn awaited(flow: &SharedFlow, by: Direction) -> u32 {
    numbers(flow, by) as u32
}

#[inline(always)]
fn numbers(flow: &SharedFlow, by: Direction) -> u64 {
    if by as u8 == Direction::Ingress as u8 {
        flow.numbers[0].get()
    } else {
        flow.numbers[1].get()
    }
}
