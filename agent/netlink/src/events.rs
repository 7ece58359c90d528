//! Change notifications for the devices, addresses and local routes of a namespace.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{BUFFER, NetlinkError};

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR` and `_IPV6_ROUTE` of
/// `linux/rtnetlink.h`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `RTM_NEWLINK`. An `ifinfomsg` follows the header: the index is at offset 4, the mask of
/// changed flags at 12.
const NEW_LINK: u16 = 16;
/// `RTM_NEWROUTE` and `RTM_DELROUTE`.
const ROUTES: [u16; 2] = [24, 25];
/// `RTN_LOCAL`: a route to an address of the node itself.
const LOCAL: u8 = 2;
/// Length of `nlmsghdr`, bytes.
const HEADER: usize = 16;
/// Offset of `rtm_type` in a message about a route.
const ROUTE_TYPE: usize = HEADER + 7;

/// Reports when a device, an address or a local route of this namespace is added, changed or
/// removed.
pub struct LinkEvents {
    socket: Socket,
}

impl LinkEvents {
    /// Subscribes in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            Ok(socket)
        };
        open()
            .map(|socket| Self { socket })
            .map_err(|source| NetlinkError::Io {
                request: "subscribe to links",
                source,
            })
    }

    /// Blocks until there is an event. Returns the index of a device that was added; of other
    /// events only the occurrence matters, so an overflow (`ENOBUFS`) counts as one more
    /// event.
    pub fn wait(&self) -> Result<Option<u32>, NetlinkError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match self.socket.recv(&mut &mut buffer[..], 0) {
                Ok(size) if concerns_node(&buffer[..size]) => {
                    return Ok(new_device(&buffer[..size]));
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(NetlinkError::Io {
                        request: "wait for link events",
                        source,
                    });
                }
            }
        }
    }
}

/// Reports whether a message is about anything but a non-local route: on a router,
/// thousands of those change.
fn concerns_node(message: &[u8]) -> bool {
    let kind = message
        .get(4..6)
        .map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let is_route = kind.is_none_or(|kind| ROUTES.contains(&kind));
    !is_route || message.get(ROUTE_TYPE).is_none_or(|kind| *kind == LOCAL)
}

/// Returns the device that a message reports as added: its mask says that all flags changed
/// (`register_netdevice` and `__dev_change_net_namespace` of net/core/dev.c).
fn new_device(message: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let word = |at: usize| {
        let bytes = message.get(HEADER + at..HEADER + at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let all_changed = kind == NEW_LINK && word(12)? == u32::MAX;
    word(4).filter(|_| all_changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, route_type: u8) -> Vec<u8> {
        let mut bytes = vec![0; 28];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[ROUTE_TYPE] = route_type;
        bytes
    }

    #[test]
    fn routes_to_elsewhere_wake_nobody_and_everything_else_does() {
        for kind in ROUTES {
            assert!(!concerns_node(&message(kind, 1)));
            assert!(concerns_node(&message(kind, LOCAL)));
        }
        for kind in [16, 17, 20, 21] {
            assert!(concerns_node(&message(kind, 1)), "{kind}");
        }
        assert!(concerns_node(&[]));
    }

    #[test]
    fn a_device_that_comes_is_told_from_one_that_changes() {
        let about = |kind: u16, changed: u32| {
            let mut bytes = message(kind, 0);
            bytes.resize(32, 0);
            bytes[20..24].copy_from_slice(&7_u32.to_ne_bytes());
            bytes[28..32].copy_from_slice(&changed.to_ne_bytes());
            bytes
        };
        assert_eq!(new_device(&about(16, u32::MAX)), Some(7));
        assert_eq!(new_device(&about(16, 1)), None);
        assert_eq!(new_device(&about(17, u32::MAX)), None);
        assert_eq!(new_device(&about(16, u32::MAX)[..30]), None);
        assert_eq!(new_device(&[]), None);
    }
}
