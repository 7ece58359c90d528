//! Connections that are older than the hooks: nobody saw which end opened them.
//!
//! Whoever is taken for the opener, the other end's packets pass as replies. So nobody is
//! taken for it by whom policy has nothing to say: that would let a forbidden opener in as
//! the other end's reply. What opens nothing may pass all the same, and the other end's
//! packets are then decided by themselves.

use super::path::{Known, Path};
use super::{Policy, Tables, Track};
use crate::abi::{Direction, EndpointWorld, Flow, Stat};
use crate::packet::{self, mark, protocol};

/// The first of the ports that Linux gives a socket which asks for none
/// (`net.ipv4.ip_local_port_range`).
const FIRST_GIVEN: u16 = 32_768;

/// Whose a connection is that nobody saw begin. Numbers: a function that the verifier walks
/// by itself returns one register.
pub(super) struct Whose;

impl Whose {
    /// It isn't taken for one.
    pub(super) const NOBODYS: u32 = 0;
    /// The sender's, who has opened it.
    pub(super) const SENDERS: u32 = 1;
    /// The other end's.
    pub(super) const OTHERS: u32 = 2;
    /// Either's: both directions allow it.
    pub(super) const EITHERS: u32 = 3;
}

/// Which end has opened a connection, as far as ports say: a server has chosen its own, a
/// client was given one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ports {
    Sender,
    Other,
    Unclear,
}

impl<T: Tables> Path<'_, T> {
    /// Whether the packet, which is allowed and opens a flow, may be of a connection that
    /// was there before: TCP or SCTP that doesn't ask for a new one; in the pick-up window
    /// any other, unless its ports say that its sender asks; a datagram whose ports say
    /// that it answers, always.
    #[inline(always)]
    pub(super) fn may_be_older(&self) -> bool {
        match self.packet.protocol {
            protocol::TCP | protocol::SCTP => !self.packet.is(mark::STARTS),
            // Queries say that they are.
            protocol::ICMP | protocol::ICMPV6 => false,
            protocol::UDP => match self.ports() {
                Ports::Sender => false,
                Ports::Other => true,
                Ports::Unclear => self.is_in_window(),
            },
            _ => self.is_in_window(),
        }
    }

    /// Whose such a connection is: a number of [`Whose`].
    ///
    /// In the window ports tell, or both directions allow it. Later a rule has to admit the
    /// sender as its opener, not only the want of a rule, or the other direction has to
    /// allow it too. Where what is staged would deny the other direction the connection is
    /// nobody's, so that the other end's packets are counted.
    #[inline(never)]
    pub(super) fn whose(&self, track: &mut Track) -> u32 {
        let always = track.new.flags & Flow::ALWAYS != 0;
        let incoming = self.direction as u8 == Direction::Ingress as u8;
        let lasts = matches!(self.packet.protocol, protocol::TCP | protocol::SCTP);
        let whose = if incoming && always {
            // The node's, which is proven, or the pod's own.
            Whose::SENDERS
        } else if self.is_in_window() {
            match self.ports() {
                Ports::Sender => Whose::SENDERS,
                Ports::Other => self.if_opposite(track, Whose::OTHERS),
                Ports::Unclear => self.if_opposite(track, Whose::EITHERS),
            }
        } else if self.half.flags & self.isolated() != 0 && !always {
            Whose::SENDERS
        } else {
            self.if_opposite(track, Whose::EITHERS)
        };
        if whose == Whose::OTHERS {
            track.new.flags = 0;
        }
        if whose == Whose::OTHERS || lasts && whose != Whose::NOBODYS {
            self.note_older(track);
        }
        whose
    }

    /// Whether an unknown packet that policy denies, or would deny, may be the reply of a connection that
    /// was open, or of a question that was asked, before the endpoint came under
    /// management. A bounded window: a FIN to an open port gets silence, so loose pick-up
    /// is a port scanner.
    #[inline(never)]
    pub(super) fn picks_up(&self, track: &mut Track, known: Known) -> bool {
        // What has an entry was tracked, and policy has taken it back.
        if known != Known::Nothing
            || !self.is_in_window()
            || self.ports() != Ports::Other
            || !self.may_be_reply()
        {
            return false;
        }
        let opposite = self.opposite(track);
        if opposite == Policy::Deny {
            return false;
        }
        // Its opener's packets are counted.
        track.audited = opposite == Policy::Audit;
        track.new.flags = 0;
        self.note_older(track);
        true
    }

    #[inline(always)]
    fn note_older(&self, track: &mut Track) {
        track.new.flags |= Flow::PICKED_UP;
        if track.new.stat as u32 == Stat::FlowsAllowed as u32 {
            track.new.stat = Stat::FlowsPickedUp;
        }
    }

    /// Whether a packet may belong to a connection that nobody saw begin, as far as it
    /// shows: TCP that neither begins nor ends one; in the window a datagram to a port that
    /// a socket was given, from one that was chosen.
    #[inline(always)]
    pub(super) fn may_be_reply(&self) -> bool {
        match self.packet.protocol {
            protocol::TCP => self.is_bare_ack(),
            protocol::UDP => self.ports() == Ports::Other && self.is_in_window(),
            _ => false,
        }
    }

    #[inline(always)]
    fn is_in_window(&self) -> bool {
        let until = self.endpoint.pickup_until;
        until != 0 && self.tables.monotonic() < until
    }

    /// Whether a TCP packet neither begins a connection nor ends one.
    #[inline(always)]
    const fn is_bare_ack(&self) -> bool {
        use packet::tcp;
        self.packet.detail & (tcp::ACK | tcp::FIN | tcp::RST | tcp::SYN) == tcp::ACK
    }

    #[inline(always)]
    fn ports(&self) -> Ports {
        let given =
            [self.packet.source_port, self.packet.destination_port].map(|port| port >= FIRST_GIVEN);
        match given {
            [true, false] => Ports::Sender,
            [false, true] => Ports::Other,
            _ => Ports::Unclear,
        }
    }

    /// The bit of an enforced policy in the packet's direction.
    #[inline(always)]
    const fn isolated(&self) -> u32 {
        match self.direction {
            Direction::Ingress => EndpointWorld::INGRESS_ISOLATED,
            Direction::Egress => EndpointWorld::EGRESS_ISOLATED,
        }
    }

    #[inline(always)]
    fn if_opposite(&self, track: &Track, whose: u32) -> u32 {
        if self.opposite(track) == Policy::Allow {
            whose
        } else {
            Whose::NOBODYS
        }
    }

    /// What policy says of the connection of which this packet would be an answer.
    #[inline(always)]
    fn opposite(&self, track: &Track) -> Policy {
        let (direction, port) = (self.direction.reverse(), self.packet.source_port);
        let protocol = self.packet.protocol;
        self.judge(direction, &track.judged, protocol, port).policy
    }
}
