//! What a packet means to a flow, by its protocol.

use super::{Packet, icmpv6, is_tunnel_protocol, mark, protocol, sctp, tcp};

impl Packet {
    /// Sets the marks of TCP, given its flags.
    #[inline(always)]
    pub(crate) const fn mark_tcp(&mut self) {
        let mut marks = mark::ANY | mark::SHAKES;
        if self.detail & (tcp::SYN | tcp::ACK) == tcp::SYN {
            marks |= mark::STARTS;
        }
        if self.detail & (tcp::FIN | tcp::RST) != 0 {
            marks = marks & !mark::OPENS | mark::ENDS;
        }
        self.marks = marks;
    }

    /// Sets the marks of UDP. Which ports are tunnels' is for the tables to say.
    #[inline(always)]
    pub(crate) const fn mark_udp(&mut self) {
        self.marks = mark::ANY | mark::TUNNEL;
    }

    /// Sets the marks of SCTP, given the type of its first chunk.
    #[inline(always)]
    pub(crate) const fn mark_sctp(&mut self) {
        self.marks = match self.detail {
            sctp::INIT => mark::ANY | mark::STARTS,
            sctp::ABORT | sctp::SHUTDOWN | sctp::SHUTDOWN_COMPLETE => {
                mark::ANY & !mark::OPENS | mark::ENDS
            }
            _ => mark::ANY,
        };
    }

    /// Sets the marks of protocols without ports.
    #[inline(always)]
    pub(crate) const fn mark_other(&mut self) {
        self.marks = mark::ANY
            | if is_tunnel_protocol(self.protocol) {
                mark::TUNNEL
            } else {
                0
            };
    }

    /// Sets the marks of ICMP or ICMPv6, given its type, and puts a query's
    /// identifier on the querier's side, so that both directions of one query
    /// share a key and a query from the peer has another. `word` is the second of
    /// the header.
    #[inline(always)]
    pub(crate) const fn mark_icmp(&mut self, word: u32) {
        let identifier = (u32::from_be(word) >> 16) as u16;
        let (query, reply, error) = match self.protocol {
            protocol::ICMP => (
                matches!(self.detail, 8 | 13 | 15 | 17),
                matches!(self.detail, 0 | 14 | 16 | 18),
                matches!(self.detail, 3 | 11 | 12),
            ),
            _ => (
                self.detail == icmpv6::ECHO_REQUEST,
                self.detail == icmpv6::ECHO_REPLY,
                self.detail >= 1 && self.detail <= 4,
            ),
        };
        if query {
            self.source_port = identifier;
            self.marks = mark::OPENS | mark::BY_OPENER;
        } else if reply {
            self.destination_port = identifier;
            self.marks = mark::BY_OTHER;
        } else if error {
            self.marks = mark::ERROR;
        }
    }
}
