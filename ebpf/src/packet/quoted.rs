//! The packet quoted by an ICMP error.

use super::parse::{FRAGMENT_OFFSET, Ipv4, Ipv6, extension_len, is_extension, set_ports};
use super::{EXTENSION_HEADERS, Frame, Layout, Packet, mark, protocol};

/// Parses the packet quoted by an ICMP or ICMPv6 error: its addresses and ports go to
/// `inner`. Returns `None` if they can't be determined.
///
/// A later fragment has no ports, in either family, so an error about one belongs to no connection.
/// The first fragment of the same packet is as long and triggers the same error.
#[inline(always)]
pub fn quoted<F: Frame + ?Sized>(frame: &F, error: &Packet, inner: &mut Packet) -> Option<()> {
    *inner = Packet::EMPTY;
    inner.ethertype = error.ethertype;
    let (at, end) = (error.transport + 8, error.transport + error.transport_len);
    // Errors quote the start of a packet, so its claimed length reaches past the end: read
    // only the addresses, the headers up to the transport header and eight bytes of that.
    let transport = if error.protocol == protocol::ICMP {
        let header = Ipv4(frame.words(at)?);
        if !header.is_sound() || header.fragment() & FRAGMENT_OFFSET != 0 {
            return None;
        }
        header.addresses(inner);
        at + header.len()
    } else {
        let header = Ipv6(frame.words(at)?);
        if header.version() != 6 {
            return None;
        }
        header.addresses(inner);
        inner.protocol = header.next();
        behind_extensions(frame, at + 40, inner)?
    };
    if transport + 8 > end {
        return None;
    }
    let words = frame.words::<2>(transport)?;
    match inner.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => set_ports(inner, words[0]),
        protocol::ICMP | protocol::ICMPV6 => {
            inner.detail = (u32::from_be(words[0]) >> 24) as u8;
            inner.mark_icmp(words[1]);
            if !inner.is(mark::BY_OPENER | mark::BY_OTHER) {
                return None;
            }
        }
        _ => {}
    }
    inner.layout = Layout::Ip;
    Some(())
}

/// Returns the offset of the transport header behind extension headers; its protocol goes to
/// `inner`. The same limits and conditions apply as for a packet that isn't quoted.
#[inline(always)]
fn behind_extensions<F: Frame + ?Sized>(
    frame: &F,
    mut offset: u32,
    inner: &mut Packet,
) -> Option<u32> {
    for walked in 0..=EXTENSION_HEADERS {
        let kind = inner.protocol;
        if !is_extension(kind) {
            return Some(offset);
        }
        let hop_by_hop_comes_late = kind == 0 && walked != 0;
        if walked == EXTENSION_HEADERS || hop_by_hop_comes_late {
            return None;
        }
        let word = u32::from_be(frame.words::<2>(offset)?[0]);
        let is_later_fragment = kind == 44 && word & 0xfff8 != 0;
        let leads_on = kind == 43 && word & 0xff != 0;
        if is_later_fragment || leads_on {
            return None;
        }
        inner.protocol = (word >> 24) as u8;
        offset += extension_len(kind, word);
    }
    None
}
