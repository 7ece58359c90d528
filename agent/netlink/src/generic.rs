//! Generic netlink, as far as tunnels need it: FOU and GUE (Linux 4.1), L2TP (2.6.35).

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{
    DecodeError, NLA_TYPE_MASK, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::{Message, Netlink, NetlinkError};

/// A socket for generic netlink.
pub type Generic = Netlink<GenericMessage>;

/// `GENL_ID_CTRL`: the family that lists the others.
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`.
const FAMILY: [u16; 2] = [1, 2];
/// `FOU_CMD_GET` of `linux/fou.h`, and `FOU_ATTR_PORT`, in network order.
const FOU: (u8, u16) = (3, 1);
/// `L2TP_CMD_TUNNEL_GET` of `linux/l2tp.h`, and `L2TP_ATTR_UDP_SPORT` and `_DPORT`, in
/// host order.
const L2TP: (u8, [u16; 2]) = (4, [26, 27]);
/// The interface version of both families.
const VERSION: u8 = 1;

/// A message of a generic netlink family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GenericMessage {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl Message for GenericMessage {
    const PROTOCOL: isize = NETLINK_GENERIC;
}

impl NetlinkSerializable for GenericMessage {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // `genlmsghdr`: command, version, 16 reserved bits.
        buffer[..4].copy_from_slice(&[self.command, VERSION, 0, 0]);
        buffer[4..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for GenericMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (Some(command), Some(attributes)) = (payload.first(), payload.get(4..)) else {
            return Err(DecodeError::from("a message without genlmsghdr"));
        };
        Ok(Self {
            family: header.message_type,
            command: *command,
            attributes: attributes.to_vec(),
        })
    }
}

impl GenericMessage {
    const fn ask(family: u16, command: u8) -> Self {
        Self {
            family,
            command,
            attributes: Vec::new(),
        }
    }

    fn attribute(&self, wanted: u16) -> Option<Vec<u8>> {
        let mut all = NlasIterator::new(&self.attributes[..]);
        all.find_map(|attribute| {
            let attribute = attribute.ok()?;
            let is = attribute.kind() & NLA_TYPE_MASK == wanted;
            is.then(|| attribute.value().to_vec())
        })
    }

    fn half(&self, wanted: u16) -> Option<[u8; 2]> {
        self.attribute(wanted)?.try_into().ok()
    }
}

impl Netlink<GenericMessage> {
    /// Returns the UDP ports on which FOU, GUE and L2TP are decapsulated in this namespace, and
    /// those of their other ends.
    pub fn tunnel_ports(&mut self) -> Result<BTreeSet<u16>, NetlinkError> {
        let families = self.families()?;
        let mut ports = BTreeSet::new();
        if let Some(family) = families.get("fou") {
            let all = self.dump("FOU_CMD_GET", &GenericMessage::ask(*family, FOU.0))?;
            ports.extend(all.iter().filter_map(fou));
        }
        if let Some(family) = families.get("l2tp") {
            let request = GenericMessage::ask(*family, L2TP.0);
            let all = self.dump("L2TP_CMD_TUNNEL_GET", &request)?;
            ports.extend(all.iter().flat_map(l2tp));
        }
        ports.remove(&0);
        Ok(ports)
    }

    /// Returns the families that exist, by name. They are listed, because querying one by name
    /// makes the kernel load its module.
    fn families(&mut self) -> Result<BTreeMap<String, u16>, NetlinkError> {
        let all = self.dump(
            "CTRL_CMD_GETFAMILY",
            &GenericMessage::ask(CONTROL, GET_FAMILY),
        )?;
        Ok(all.iter().filter_map(family).collect())
    }
}

fn family(message: &GenericMessage) -> Option<(String, u16)> {
    let [id, name] = FAMILY;
    let name = message.attribute(name)?;
    let name = String::from_utf8(name.split(|byte| *byte == 0).next()?.to_vec()).ok()?;
    Some((name, u16::from_ne_bytes(message.half(id)?)))
}

fn fou(message: &GenericMessage) -> Option<u16> {
    message.half(FOU.1).map(u16::from_be_bytes)
}

fn l2tp(message: &GenericMessage) -> Vec<u16> {
    let ports = L2TP.1.into_iter();
    ports
        .filter_map(|port| message.half(port).map(u16::from_ne_bytes))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a message with these attributes, in the kernel's layout.
    fn message(attributes: &[(u16, &[u8])]) -> GenericMessage {
        let mut bytes = Vec::new();
        for (kind, value) in attributes {
            let length = u16::try_from(value.len() + 4).unwrap();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        GenericMessage {
            attributes: bytes,
            ..GenericMessage::ask(29, 1)
        }
    }

    #[test]
    fn the_kernel_lists_the_family_that_lists_them() {
        let mut generic = Generic::open().unwrap();
        let families = generic.families().unwrap();
        assert_eq!(families.get("nlctrl"), Some(&CONTROL));
        generic.tunnel_ports().unwrap();
    }

    #[test]
    fn a_family_is_read_by_name_and_id() {
        let id = 29_u16.to_ne_bytes();
        let found = family(&message(&[(2, b"fou\0"), (1, &id)]));
        assert_eq!(found, Some(("fou".to_owned(), 29)));
        assert_eq!(family(&message(&[(2, b"fou\0")])), None);
    }

    #[test]
    fn ports_of_fou_are_in_network_order_and_those_of_l2tp_are_not() {
        // Protocol, type, port: the attributes that fou_fill_info adds after the family.
        let direct = message(&[(2, &[2]), (1, &5555_u16.to_be_bytes()), (3, &[4])]);
        assert_eq!(fou(&direct), Some(5555));
        let [from, to] = [1701_u16, 1702].map(u16::to_ne_bytes);
        let over_udp = message(&[(9, &[1, 0, 0, 0]), (26, &from), (27, &to)]);
        assert_eq!(l2tp(&over_udp), [1701, 1702]);
        let over_ip = message(&[(9, &[1, 0, 0, 0])]);
        assert_eq!(l2tp(&over_ip), [0; 0]);
    }
}
