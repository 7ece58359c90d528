//! Connections that are older than the hooks: no hook saw which end opened them.
//!
//! Once one end is assumed to be the opener, the other end's packets pass as replies. So an end is
//! never assumed to be the opener merely because no policy applies to it: a denied opener would
//! then get in as the other end's reply. A packet that opens no connection may still pass, and the
//! other end's packets are then decided separately.

use super::path::{Known, Path};
use super::{Pending, Policy, Tables};
use crate::abi::{Connection, Direction, EndpointRules, Stat};
use crate::packet::{self, mark, protocol};

/// The first port that Linux assigns to a socket that doesn't request one
/// (`net.ipv4.ip_local_port_range`).
const FIRST_GIVEN: u16 = 32_768;

/// The end that owns a connection whose opening no hook saw. Plain numbers, because a function that
/// the verifier walks separately returns one register.
pub(super) struct Whose;

impl Whose {
    /// Neither: the packet opens no connection.
    pub(super) const NOBODYS: u32 = 0;
    /// The sender, which opened the connection.
    pub(super) const SENDERS: u32 = 1;
    /// The other end.
    pub(super) const OTHERS: u32 = 2;
    /// Either end: both directions allow the connection.
    pub(super) const EITHERS: u32 = 3;
}

/// Which end opened a connection, judging by ports: a server's port is chosen, a client's
/// is assigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ports {
    Sender,
    Other,
    Unclear,
}

impl<T: Tables> Path<'_, T> {
    /// Reports whether an allowed packet that would open a connection may belong to an older one.
    /// Returns `true` for TCP or SCTP that doesn't start a connection; within the pick-up window,
    /// for any other protocol unless the ports mark the sender as the client; and at any time, for
    /// a datagram whose ports mark it as an answer.
    #[inline(always)]
    pub(super) fn may_be_older(&self) -> bool {
        match self.packet.protocol {
            protocol::TCP | protocol::SCTP => !self.packet.is(mark::STARTS),
            // ICMP queries identify themselves.
            protocol::ICMP | protocol::ICMPV6 => false,
            protocol::UDP => match self.ports() {
                Ports::Sender => false,
                Ports::Other => true,
                Ports::Unclear => self.is_in_window(),
            },
            _ => self.is_in_window(),
        }
    }

    /// Returns the owner of such a connection: one of [`Whose`]'s constants.
    ///
    /// Within the window, either the ports decide or both directions have to allow the connection.
    /// After it, a rule has to admit the sender as the opener (the absence of isolation isn't
    /// enough), or the other direction has to allow the connection too. If a staged policy would
    /// deny the other direction, the connection has no owner, so that the other end's packets are
    /// counted.
    #[inline(never)]
    pub(super) fn whose(&self, pending: &mut Pending) -> u32 {
        let always = pending.new.flags & Connection::ALWAYS != 0;
        let incoming = self.direction as u8 == Direction::Ingress as u8;
        let lasts = matches!(self.packet.protocol, protocol::TCP | protocol::SCTP);
        let whose = if incoming && always {
            // Proven to come from the node, or from the pod itself.
            Whose::SENDERS
        } else if self.is_in_window() {
            match self.ports() {
                Ports::Sender => Whose::SENDERS,
                Ports::Other => self.if_opposite(pending, Whose::OTHERS),
                Ports::Unclear => self.if_opposite(pending, Whose::EITHERS),
            }
        } else if self.rules.flags & self.isolated() != 0 && !always {
            Whose::SENDERS
        } else {
            self.if_opposite(pending, Whose::EITHERS)
        };
        if whose == Whose::OTHERS {
            pending.new.flags = 0;
        }
        if whose == Whose::OTHERS || lasts && whose != Whose::NOBODYS {
            self.note_older(pending);
        }
        whose
    }

    /// Reports whether an unknown packet that policy denies, or would deny, may be the reply on a
    /// connection that was opened, or to a query that was sent, before the endpoint came under
    /// management. The window is bounded: a FIN to an open port gets no answer, so an unlimited
    /// pick-up would allow port scans.
    #[inline(never)]
    pub(super) fn picks_up(&self, pending: &mut Pending, known: Known) -> bool {
        // A connection with an entry was tracked, and policy has revoked it.
        if known != Known::Nothing
            || !self.is_in_window()
            || self.ports() != Ports::Other
            || !self.may_be_reply()
        {
            return false;
        }
        let opposite = self.opposite(pending);
        if opposite == Policy::Deny {
            return false;
        }
        // If audited, the connection is counted with its opener's packets.
        pending.audited = opposite == Policy::Audit;
        pending.new.flags = 0;
        self.note_older(pending);
        true
    }

    #[inline(always)]
    fn note_older(&self, pending: &mut Pending) {
        pending.new.flags |= Connection::PICKED_UP;
        if pending.new.stat as u32 == Stat::ConnectionsAllowed as u32 {
            pending.new.stat = Stat::ConnectionsPickedUp;
        }
    }

    /// Reports whether a packet may belong to a connection whose opening no hook saw, judging by
    /// its headers: TCP that neither starts nor ends a connection; within the window, a datagram
    /// from a chosen port to an assigned one.
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

    /// Reports whether a TCP packet neither starts nor ends a connection.
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

    /// Returns the flag that an enforced policy sets in the packet's direction.
    #[inline(always)]
    const fn isolated(&self) -> u32 {
        match self.direction {
            Direction::Ingress => EndpointRules::INGRESS_ISOLATED,
            Direction::Egress => EndpointRules::EGRESS_ISOLATED,
        }
    }

    #[inline(always)]
    fn if_opposite(&self, pending: &Pending, whose: u32) -> u32 {
        if self.opposite(pending) == Policy::Allow {
            whose
        } else {
            Whose::NOBODYS
        }
    }

    /// Returns the policy decision on the connection to which this packet would be an answer.
    #[inline(always)]
    fn opposite(&self, pending: &Pending) -> Policy {
        let (direction, port) = (self.direction.reverse(), self.packet.source_port);
        let protocol = self.packet.protocol;
        self.judge(direction, &pending.judged, protocol, port)
            .policy
    }
}
