//! Routes to this namespace itself: the addresses that its kernel treats as its own.

use std::net::IpAddr;

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// A prefix whose packets are delivered here. There is one for every address of a device
/// that is up, and for each prefix added with `ip route add local`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalRoute {
    /// The first address of the prefix.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub length: u8,
    /// Index of the route's device, if it names one.
    pub link: Option<u32>,
}

impl Netlink {
    /// Returns the routes of type `local`, of both families and all tables.
    pub fn local_routes(&mut self) -> Result<Vec<LocalRoute>, NetlinkError> {
        // Linux 4.20 and later list only those; older versions list all routes.
        let _ = self.socket.set_netlink_get_strict_chk(true);
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header = RouteHeader {
                address_family: family,
                kind: RouteType::Local,
                ..RouteHeader::default()
            };
            let request = RouteNetlinkMessage::GetRoute(message);
            let replies = self.dump("GETROUTE", &request);
            routes.extend(replies?.iter().filter_map(route));
        }
        // Other requests have headers that strict checking rejects.
        let _ = self.socket.set_netlink_get_strict_chk(false);
        Ok(routes)
    }
}

fn route(message: &RouteNetlinkMessage) -> Option<LocalRoute> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    if message.header.kind != RouteType::Local {
        return None;
    }
    let (mut address, mut link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = Some((*ip).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = Some((*ip).into()),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Some(LocalRoute {
        address: address?,
        length: message.header.destination_prefix_length,
        link,
    })
}
