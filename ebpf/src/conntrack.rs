//! What a packet does to a flow, and how long a flow lives: pure transitions,
//! the clock is passed in.

mod turns;

use crate::abi::{Direction, Flow, Quota};
use crate::packet::{Packet, mark, protocol};
use crate::shared::{Shared, SharedFlow, SharedQuota};
use core::hint::cold_path;

pub use turns::answers;

/// How far a connection has come.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Only its opener has been heard.
    Opening = 0,
    /// Both sides have been heard, and with TCP the opener once more.
    Replied = 1,
    /// It is over: both sides have ended it, or one for both (TCP's FINs or RST, SCTP's
    /// ABORT or SHUTDOWN).
    Closing = 2,
    /// TCP: answered, but the opener hasn't shown that it got the answer. Whoever
    /// only sends SYNs never comes further.
    Answered = 3,
    /// The other side was heard first, in its pick-up window, and is taken at its word that
    /// there is a connection: over TCP as long as it sends bare ACKs, over UDP as long as
    /// the window is open.
    PickedUp = 4,
    /// TCP: its opener has ended its half (FIN), the other side goes on.
    OpenerDone = 5,
    /// TCP: the other way round.
    OtherDone = 6,
}

/// What [`advance`] gives instead of a [`State`] for a TCP SYN-ACK on a connection that
/// lives: if it answers a new SYN, there is a new connection.
pub const ANSWERS_ANEW: u8 = 7;
/// Neither end's TCP would take the packet: it changes nothing.
const UNBELIEVED: u8 = 8;

/// The flows' clock: the kernel's ticks, which cost nothing to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Ticks since some time before boot.
    pub now: u64,
    /// Ticks in a second.
    pub second: u64,
}

/// How long a flow lives after its last packet, in seconds.
///
/// An entry past its timeout counts as absent, so none of this needs an agent.
/// The values are conntrack's habits (nf_conntrack, Linux 6.18) but for
/// established TCP, which lives 24 h instead of 5 days, and TCP of which one side has sent
/// its FIN: an hour, as kube-proxy sets it (`nf_conntrack_tcp_timeout_close_wait`).
#[inline(always)]
pub const fn timeout(protocol_number: u8, state: u8) -> u32 {
    let replied = state == State::Replied as u8;
    let closing = state == State::Closing as u8;
    let half = state == State::OpenerDone as u8 || state == State::OtherDone as u8;
    match protocol_number {
        protocol::TCP if replied => 24 * 3600,
        protocol::TCP if half => 3600,
        protocol::TCP if closing => 120,
        protocol::SCTP if replied => 210,
        protocol::TCP | protocol::SCTP => 60,
        protocol::UDP if replied => 180,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 30,
        _ => 600,
    }
}

/// Whether the flow counts as absent now.
///
/// Ticks of two CPUs may differ by one: a flow from the future is fresh.
#[inline(always)]
pub const fn expired(flow: &Flow, clock: Clock) -> bool {
    is_over(flow.last_seen, flow.timeout, clock)
}

#[inline(always)]
const fn is_over(last_seen: u64, timeout: u32, clock: Clock) -> bool {
    // Ticks since some time before boot never get so far that the sum wraps.
    last_seen.wrapping_add(timeout as u64 * clock.second) < clock.now
}

impl Clock {
    /// The minute, its low eight bits.
    #[inline(always)]
    pub fn minute(self) -> u8 {
        self.now.checked_div(60 * self.second).unwrap_or_default() as u8
    }
}

impl SharedFlow {
    /// Whether the flow counts as absent now; see [`expired`].
    #[inline(always)]
    pub fn expired(&self, clock: Clock) -> bool {
        is_over(self.last_seen.get(), self.timeout.get(), clock)
    }
}

/// Takes an allowed packet into account; the flow's [`State`] from then on, or
/// [`ANSWERS_ANEW`].
#[inline(always)]
pub fn advance(flow: &SharedFlow, direction: Direction, packet: &Packet, len: u32, now: u64) -> u8 {
    let [packets, bytes, numbers] = match direction {
        Direction::Ingress => [&flow.packets[0], &flow.bytes[0], &flow.numbers[0]],
        Direction::Egress => [&flow.packets[1], &flow.bytes[1], &flow.numbers[1]],
    };
    add(packets, 1);
    add(bytes, u64::from(len));
    let state = flow.state.get();
    if state != State::Replied as u8 || packet.is(mark::TURNS) {
        cold_path();
        return turns::turn(flow, direction, packet, now);
    }
    flow.last_seen.set(now);
    numbers.set(packet.numbers);
    state
}

#[inline(always)]
fn add(counter: &Shared<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

/// A flow that a packet has just opened.
#[inline(always)]
pub const fn opened(
    direction: Direction,
    protocol_number: u8,
    epoch: u32,
    peer: u32,
    len: u32,
    now: u64,
) -> Flow {
    let (ingress, egress) = match direction {
        Direction::Ingress => (1, 0),
        Direction::Egress => (0, 1),
    };
    Flow {
        last_seen: now,
        opened: now,
        packets: [ingress, egress],
        bytes: [ingress * len as u64, egress * len as u64],
        epoch,
        peer,
        opened_by: direction as u8,
        state: State::Opening as u8,
        flags: 0,
        minute: 0,
        numbers: [0; 2],
        timeout: timeout(protocol_number, State::Opening as u8),
    }
}

/// Takes an answered flow back to where it waits for its opener, since there is no room to
/// keep it.
#[inline(always)]
pub fn hold_back(flow: &SharedFlow, protocol_number: u8) {
    let state = State::Answered as u8;
    flow.state.set(state);
    flow.timeout.set(timeout(protocol_number, state));
}

/// How long a flow in `OPENING` holds its way against others after its last packet,
/// in seconds: as long as it lives, but for one that has ended, which only waits
/// for the last words.
#[inline(always)]
pub fn lease(flow: &SharedFlow) -> u32 {
    if flow.state.get() == State::Closing as u8 {
        60
    } else {
        flow.timeout.get()
    }
}

impl SharedQuota {
    /// How many replied flows are kept. `gone` is how many of those that were put
    /// there have expired since.
    #[inline(always)]
    pub fn kept(&self, gone: u32) -> u32 {
        let kept = self.replied.get().wrapping_sub(gone);
        // Fewer than none: more was taken off than was there.
        if kept < u32::MAX / 2 { kept } else { 0 }
    }

    /// Whether the endpoint may keep one more of a protocol that may have `most`, given how
    /// many all of them keep.
    #[inline(always)]
    pub fn may_keep(&self, endpoint: u32, most: u32, gone: u32, all: u32) -> bool {
        self.is_of(endpoint);
        let kept = self.kept(gone);
        kept < most && kept < Quota::ALL_REPLIED.saturating_sub(all)
    }

    /// One more is kept.
    #[inline(always)]
    pub fn keep(&self) {
        self.replied.set(self.replied.get().wrapping_add(1));
    }

    /// One has been taken out.
    #[inline(always)]
    pub fn let_go(&self) {
        self.replied.set(self.replied.get().wrapping_sub(1));
    }

    #[inline(always)]
    fn is_of(&self, endpoint: u32) {
        if self.endpoint.get() != endpoint {
            self.endpoint.set(endpoint);
            self.replied.set(0);
            self.claims.set(0);
        }
    }

    /// Whether the endpoint may claim one more address, which then counts.
    #[inline(always)]
    pub fn claim(&self, endpoint: u32) -> bool {
        self.is_of(endpoint);
        let claims = self.claims.get();
        if claims >= Quota::CLAIMS {
            return false;
        }
        self.claims.set(claims + 1);
        true
    }
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
