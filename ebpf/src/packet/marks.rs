//! What a packet means for a connection, by protocol.

use core::hint::cold_path;

use super::{Packet, icmpv6, is_tunnel_protocol, mark, protocol, sctp, tcp};

impl Packet {
    /// Sets the TCP fields other than the ports, given the sequence number, the acknowledgment
    /// number and the fourth word of the header, all in host order. Returns `false` if the header
    /// is longer than the segment, or shorter than the minimum.
    #[inline(always)]
    pub(crate) fn set_tcp(&mut self, sequence: u32, acknowledged: u32, word: u32) -> bool {
        let header_len = (word >> 28) * 4;
        if header_len < 20 || self.transport_len < header_len {
            return false;
        }
        let payload = self.transport_len - header_len;
        let behind = sequence.wrapping_add(payload);
        self.numbers = u64::from(behind) << 32 | u64::from(acknowledged);
        self.detail = (word >> 16) as u8;
        self.marks = mark::ANY | mark::SHAKES;
        if self.detail & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
            cold_path();
            self.payload = payload;
            self.marks = Self::marks_of_turn(self.detail);
        }
        true
    }

    /// Returns the marks of a segment with SYN, FIN or RST.
    #[inline(always)]
    const fn marks_of_turn(flags: u8) -> u8 {
        let mut marks = mark::ANY | mark::SHAKES;
        let shakes = flags & (tcp::SYN | tcp::ACK);
        if shakes == tcp::SYN {
            marks |= mark::STARTS;
        }
        if flags & (tcp::FIN | tcp::RST) != 0 || shakes == tcp::SYN | tcp::ACK {
            marks = marks & !mark::OPENS | mark::TURNS;
        }
        marks
    }

    /// Sets the marks of UDP. The tables hold the list of tunnel ports.
    #[inline(always)]
    pub(crate) const fn mark_udp(&mut self) {
        self.marks = mark::ANY | mark::TUNNEL;
    }

    /// Sets the marks of SCTP, given the type of its first chunk; `tag` is the second word
    /// of the header.
    #[inline(always)]
    pub(crate) const fn mark_sctp(&mut self, tag: u32) {
        self.numbers = (u32::from_be(tag) as u64) << 32;
        self.marks = match self.detail {
            sctp::INIT => mark::ANY | mark::STARTS,
            sctp::ABORT | sctp::SHUTDOWN | sctp::SHUTDOWN_COMPLETE => {
                mark::ANY & !mark::OPENS | mark::TURNS
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

    /// Sets the marks of ICMP or ICMPv6, given its type, and puts a query's identifier on
    /// the querier's side, so that both directions of one query share a key and a query
    /// from the peer has a different one. `word` is the second word of the header.
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
