//! Parses links and addresses from the kernel's messages. Pure.
//!
//! Names and labels are bytes, and a pod chooses the names, aliases and labels of its
//! devices. A parser that requires the complete message to be UTF-8 skips such a device,
//! and the pod would then have none. So only the needed attributes are parsed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::link::LinkLayerType;

use super::{Link, LinkAddress};

/// `struct nlmsghdr` of linux/netlink.h.
const HEADER: usize = 16;
/// `struct ifinfomsg` of linux/rtnetlink.h.
const LINK: usize = 16;
/// `struct ifaddrmsg` of linux/if_addr.h.
const ADDRESS: usize = 8;

/// `RTM_NEWLINK` and `RTM_NEWADDR` of linux/rtnetlink.h.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;

/// `IFLA_*` of linux/if_link.h.
const LINK_MAC: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_PEER: u16 = 5;
const LINK_INFO: u16 = 18;
const LINK_NETNS: u16 = 37;
/// `IFLA_INFO_KIND`, within `IFLA_LINKINFO`.
const INFO_KIND: u16 = 1;

/// `IFA_ADDRESS` and `IFA_LOCAL` of linux/if_addr.h.
const ADDRESS_OF_PEER: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;

/// Parses a device from a complete message; `None` for any other message.
pub(super) fn link(message: &[u8]) -> Option<Link> {
    let (header, attributes) = split(message, NEW_LINK, LINK)?;
    let mut link = Link {
        index: number(&header[4..8])?,
        medium: LinkLayerType::from(u16::from_ne_bytes([header[2], header[3]])),
        ..Link::default()
    };
    for (kind, value) in each(attributes) {
        match kind {
            LINK_NAME => link.name = text(value),
            LINK_MAC => link.mac = value.try_into().ok(),
            // 0 means none, on devices that have the attribute but no lower device.
            LINK_PEER => link.peer = number(value).filter(|peer| *peer != 0),
            LINK_NETNS => link.peer_netns = number(value).map(u32::cast_signed),
            LINK_INFO => {
                let kind = each(value).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// Parses an address in the same way. On a point-to-point device `IFA_ADDRESS` is the
/// peer's address and `IFA_LOCAL` ours.
pub(super) fn address(message: &[u8]) -> Option<LinkAddress> {
    let (header, attributes) = split(message, NEW_ADDRESS, ADDRESS)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in each(attributes) {
        match kind {
            ADDRESS_LOCAL => local = ip(value),
            ADDRESS_OF_PEER => address = ip(value),
            _ => {}
        }
    }
    Some(LinkAddress {
        link: number(&header[4..8])?,
        address: local.or(address)?,
    })
}

/// Splits a message of the given type into its own header, of the given length, and its
/// attributes.
fn split(message: &[u8], kind: u16, length: usize) -> Option<(&[u8], &[u8])> {
    let is_of_kind = message.get(4..6)? == kind.to_ne_bytes();
    let body = message.get(HEADER..).filter(|_| is_of_kind)?;
    body.split_at_checked(length)
}

/// Iterates over attributes and their kinds, up to one that is truncated.
fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let all = NlasIterator::new(attributes).map_while(Result::ok);
    all.map(|one| {
        let (kind, length) = (one.kind(), usize::from(one.length()));
        // `value` would borrow from the handle; this gives the same bytes.
        (kind, &one.into_inner()[4..length])
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(value).map(|octets| Ipv6Addr::from(octets).into());
    v4.or_else(|_| v6()).ok()
}

/// Returns the text up to a NUL. Bytes that aren't UTF-8 are escaped, as in `eth\xff`, so
/// that different names stay different.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    let mut text = String::new();
    for chunk in value[..end.unwrap_or(value.len())].utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid().iter();
        text.extend(invalid.map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, header: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(header);
        bytes.extend(attributes.concat());
        bytes
    }

    fn link_header(index: u32) -> Vec<u8> {
        let mut header = vec![0; LINK];
        header[2..4].copy_from_slice(&1_u16.to_ne_bytes());
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header
    }

    #[test]
    fn a_device_whose_name_and_alias_are_not_utf8_is_read_like_any_other() {
        const ALIAS: u16 = 20;
        let info = attribute(INFO_KIND, b"veth");
        let attributes = [
            attribute(LINK_NAME, b"eth\xff0\0"),
            attribute(ALIAS, b"\xc3\x28"),
            attribute(LINK_MAC, &[2, 0, 0, 0, 0, 7]),
            attribute(LINK_PEER, &9_u32.to_ne_bytes()),
            attribute(LINK_NETNS, &3_i32.to_ne_bytes()),
            // NLA_F_NESTED of linux/netlink.h isn't part of the kind.
            attribute(LINK_INFO | 0x8000, &info),
        ];
        let found = link(&message(NEW_LINK, &link_header(7), &attributes));
        let expected = Link {
            index: 7,
            name: "eth\\xff0".into(),
            mac: Some([2, 0, 0, 0, 0, 7]),
            peer: Some(9),
            peer_netns: Some(3),
            kind: "veth".into(),
            medium: LinkLayerType::Ether,
            ..Link::default()
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn an_address_whose_label_is_not_utf8_is_read_like_any_other() {
        const LABEL: u16 = 3;
        let header = [2, 24, 0, 0, 7, 0, 0, 0];
        let attributes = [
            attribute(LABEL, b"eth0:\xfe\0"),
            attribute(ADDRESS_OF_PEER, &[10, 0, 0, 1]),
            attribute(ADDRESS_LOCAL, &[10, 0, 0, 2]),
        ];
        let found = address(&message(NEW_ADDRESS, &header, &attributes)).unwrap();
        assert_eq!(found.link, u32::from_ne_bytes([7, 0, 0, 0]));
        assert_eq!(found.address, IpAddr::from([10, 0, 0, 2]));
        let v6 = [attribute(ADDRESS_OF_PEER, &[0xfd; 16])];
        let found = address(&message(NEW_ADDRESS, &header, &v6)).unwrap();
        assert_eq!(found.address, IpAddr::from([0xfd; 16]));
    }

    #[test]
    fn what_is_cut_off_or_of_another_kind_is_none_and_no_panic() {
        let whole = message(NEW_LINK, &link_header(7), &[attribute(LINK_NAME, b"eth0")]);
        for length in 0..whole.len() {
            let cut = link(&whole[..length]);
            assert_eq!(cut.is_some(), length >= HEADER + LINK, "{length}");
        }
        assert_eq!(address(&whole), None);
    }

    #[test]
    fn names_that_differ_stay_different() {
        assert_eq!(text(b"eth0\0rubbish"), "eth0");
        assert_eq!(text("ätsch".as_bytes()), "ätsch");
        assert_ne!(text(b"a\xff"), text(b"a\xfe"));
    }
}
