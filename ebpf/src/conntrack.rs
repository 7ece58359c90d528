//! How packets change a connection, and how long connections live: pure transitions, to which the
//! caller passes the clock.

mod turns;

use crate::abi::{Connection, Direction, Quota};
use crate::packet::{Packet, mark, protocol};
use crate::shared::{Shared, SharedConnection, SharedQuota};
use core::hint::cold_path;

pub use turns::answers;

/// The state of a connection.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Only the opener has sent packets.
    Opening = 0,
    /// Both sides have sent packets; with TCP, the opener has sent another one since.
    Replied = 1,
    /// The connection has ended: both sides have ended it, or one has for both (TCP's FINs or
    /// RST, SCTP's ABORT or SHUTDOWN).
    Closing = 2,
    /// TCP: answered, but the opener hasn't shown yet that it received the answer. An opener that
    /// only sends SYNs never gets beyond this state.
    Answered = 3,
    /// The first packet came from the other side, within its pick-up window, and its claim that
    /// there is a connection is believed: over TCP as long as it sends bare ACKs, over UDP as
    /// long as the window is open.
    PickedUp = 4,
    /// TCP: the opener has closed its direction (FIN), the other side still sends.
    OpenerDone = 5,
    /// TCP: the other side has closed its direction (FIN), the opener still sends.
    OtherDone = 6,
}

/// Returned by [`advance`] instead of a [`State`] for a TCP SYN-ACK on a live connection: if it
/// answers a new SYN, there is a new connection.
pub const ANSWERS_ANEW: u8 = 7;
/// Neither end's TCP would accept the packet: the connection doesn't change.
const UNBELIEVED: u8 = 8;

/// The connections' clock: the kernel's ticks, which cost nothing to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Ticks since a moment before boot.
    pub now: u64,
    /// Ticks per second.
    pub second: u64,
}

/// Returns the lifetime of a connection after its last packet, in seconds.
///
/// An entry past its timeout counts as absent, so expiry doesn't need an agent. The values are
/// those of conntrack (nf_conntrack, Linux 6.18) with two exceptions: established TCP lives 24 h
/// instead of 5 days, and TCP of which one side has sent its FIN lives an hour, as kube-proxy
/// configures it (`nf_conntrack_tcp_timeout_close_wait`).
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

/// Reports whether the connection has expired and counts as absent.
///
/// The ticks of two CPUs may differ by one: a connection from the future is fresh.
#[inline(always)]
pub const fn expired(connection: &Connection, clock: Clock) -> bool {
    is_over(connection.last_seen, connection.timeout, clock)
}

#[inline(always)]
const fn is_over(last_seen: u64, timeout: u32, clock: Clock) -> bool {
    // The ticks never get high enough for the sum to wrap.
    last_seen.wrapping_add(timeout as u64 * clock.second) < clock.now
}

impl Clock {
    /// Returns the low eight bits of the current minute.
    #[inline(always)]
    pub fn minute(self) -> u8 {
        self.now.checked_div(60 * self.second).unwrap_or_default() as u8
    }
}

impl SharedConnection {
    /// Reports whether the connection has expired; see [`expired`].
    #[inline(always)]
    pub fn expired(&self, clock: Clock) -> bool {
        is_over(self.last_seen.get(), self.timeout.get(), clock)
    }
}

/// Accounts an allowed packet to a connection. Returns the connection's new [`State`], or
/// [`ANSWERS_ANEW`].
#[inline(always)]
pub fn advance(
    connection: &SharedConnection,
    direction: Direction,
    packet: &Packet,
    len: u32,
    now: u64,
) -> u8 {
    let [packets, bytes, numbers] = match direction {
        Direction::Ingress => [
            &connection.packets[0],
            &connection.bytes[0],
            &connection.numbers[0],
        ],
        Direction::Egress => [
            &connection.packets[1],
            &connection.bytes[1],
            &connection.numbers[1],
        ],
    };
    add(packets, 1);
    add(bytes, u64::from(len));
    let state = connection.state.get();
    if state != State::Replied as u8 || packet.is(mark::TURNS) {
        cold_path();
        return turns::turn(connection, direction, packet, now);
    }
    connection.last_seen.set(now);
    numbers.set(packet.numbers);
    state
}

#[inline(always)]
fn add(counter: &Shared<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

/// Returns a connection that a packet has just opened.
#[inline(always)]
pub const fn opened(
    direction: Direction,
    protocol_number: u8,
    epoch: u32,
    peer: u32,
    len: u32,
    now: u64,
) -> Connection {
    let (ingress, egress) = match direction {
        Direction::Ingress => (1, 0),
        Direction::Egress => (0, 1),
    };
    Connection {
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

/// Puts an answered connection back into the state in which it waits for its opener, since there
/// is no room to keep it.
#[inline(always)]
pub fn hold_back(connection: &SharedConnection, protocol_number: u8) {
    let state = State::Answered as u8;
    connection.state.set(state);
    connection.timeout.set(timeout(protocol_number, state));
}

/// Returns how long a connection in `OPENING` holds its way after its last packet, in seconds.
/// That is its lifetime, except for a connection that has ended, which only waits for the last
/// packets.
#[inline(always)]
pub fn lease(connection: &SharedConnection) -> u32 {
    if connection.state.get() == State::Closing as u8 {
        60
    } else {
        connection.timeout.get()
    }
}

impl SharedQuota {
    /// Returns the number of replied connections that are kept. `gone` is the number of those
    /// that were counted and have expired since.
    #[inline(always)]
    pub fn kept(&self, gone: u32) -> u32 {
        let kept = self.replied.get().wrapping_sub(gone);
        // Below zero: more was subtracted than there was.
        if kept < u32::MAX / 2 { kept } else { 0 }
    }

    /// Reports whether the endpoint may keep one more connection of a protocol whose limit is
    /// `most`, given the number `all` that all endpoints keep.
    #[inline(always)]
    pub fn may_keep(&self, endpoint: u32, most: u32, gone: u32, all: u32) -> bool {
        self.is_of(endpoint);
        let kept = self.kept(gone);
        kept < most && kept < Quota::ALL_REPLIED.saturating_sub(all)
    }

    /// Counts one more kept connection.
    #[inline(always)]
    pub fn keep(&self) {
        self.replied.set(self.replied.get().wrapping_add(1));
    }

    /// Counts one connection less.
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

    /// Claims one more address for the endpoint. Returns whether its limit allows that.
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
