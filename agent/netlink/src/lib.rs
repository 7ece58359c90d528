//! Links, addresses and namespace ids over rtnetlink. Linux 4.9 or later.
//!
//! A socket belongs to the network namespace of the thread that opened it, and
//! stays there. So one thread can keep the node's socket open while it visits the pods.

// If an unwrap fails in a test, the panic's location is all that is needed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod events;
mod generic;
mod read;
mod routes;
mod tunnels;

use std::io;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
pub use netlink_packet_route::link::LinkLayerType;
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Message types below this are netlink's own, from linux/netlink.h; the others belong to the
/// protocol.
const NLMSG_MIN_TYPE: u16 = 0x10;
/// The maximum number of attempts at a dump, which is restarted if a change interrupts it.
const ATTEMPTS: usize = 8;
/// The kernel fills at most 32 KiB per read of a dump.
const BUFFER: usize = 64 * 1024;

pub use events::LinkEvents;
pub use generic::{Generic, GenericMessage};
pub use routes::LocalRoute;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A system call failed.
    #[error("netlink {request}: {source}")]
    Io {
        /// The name of the request.
        request: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The listed objects changed faster than they could be read.
    #[error("netlink {request}: interrupted {ATTEMPTS} times by other changes")]
    Interrupted {
        /// The name of the request.
        request: &'static str,
    },
    /// The answer has more messages than the socket's limit.
    #[error("netlink {request}: more than {limit} of them, so none is read")]
    TooMany {
        /// The name of the request.
        request: &'static str,
        /// The limit, in messages.
        limit: usize,
    },
}

/// One network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name, with bytes that aren't UTF-8 escaped.
    pub name: String,
    /// Its MAC, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// `IFLA_LINK`: for a veth, the index of its other end.
    pub peer: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the namespace of the other end; absent if it is this one.
    pub peer_netns: Option<i32>,
    /// `IFLA_INFO_KIND`, such as `veth`; empty for physical devices and `lo`.
    pub kind: String,
    /// `ifi_type`: the kind of link header that its frames have.
    pub medium: LinkLayerType,
    /// UDP ports of this device's tunnels, here or at the other end.
    pub tunnels: Vec<u16>,
}

/// An address and the device that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkAddress {
    /// Index of the device.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
}

/// A blocking netlink socket in the namespace in which it was opened; for rtnetlink unless
/// another message type is given.
pub struct Netlink<M = RouteNetlinkMessage> {
    socket: Socket,
    sequence: u32,
    limit: usize,
    /// Replies skipped so far because they couldn't be parsed; callers may reset it.
    pub unread: usize,
    messages: PhantomData<M>,
}

/// The messages that one kind of socket sends and receives.
pub trait Message: NetlinkSerializable + NetlinkDeserializable + Clone {
    /// The kind: `NETLINK_ROUTE` and so on.
    const PROTOCOL: isize;
}

impl Message for RouteNetlinkMessage {
    const PROTOCOL: isize = NETLINK_ROUTE;
}

impl<M: Message> Netlink<M> {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(M::PROTOCOL)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Io {
            request: "socket",
            source,
        })?;
        Ok(Self {
            socket,
            sequence: 0,
            limit: usize::MAX,
            unread: 0,
            messages: PhantomData,
        })
    }

    /// Limits the number of messages in an answer, for namespaces that others may fill.
    /// After an answer over the limit the socket is unusable.
    pub const fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Requests a list.
    ///
    /// # Errors
    /// If the kernel refuses, or other changes interrupt every attempt.
    pub fn dump(&mut self, name: &'static str, request: &M) -> Result<Vec<M>, NetlinkError> {
        self.dump_by(name, request, any)
    }

    fn dump_by<T>(
        &mut self,
        name: &'static str,
        request: &M,
        read: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..ATTEMPTS {
            match self.request_by(name, request, NLM_F_REQUEST | NLM_F_DUMP, read) {
                Err(NetlinkError::Interrupted { .. }) => {}
                done => return done,
            }
        }
        Err(NetlinkError::Interrupted { request: name })
    }

    /// Sends a query or a command; returns each reply that could be parsed.
    ///
    /// # Errors
    /// If the kernel answers with an error, or the socket fails.
    pub fn request(
        &mut self,
        name: &'static str,
        request: &M,
        flags: u16,
    ) -> Result<Vec<M>, NetlinkError> {
        self.request_by(name, request, flags, any)
    }

    /// Parses each reply with a function that gets the complete message; skips replies that
    /// it can't parse.
    fn request_by<T>(
        &mut self,
        name: &'static str,
        request: &M,
        flags: u16,
        read: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let failed = |source| NetlinkError::Io {
            request: name,
            source,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(failed)?;
        let mut replies = Replies {
            dump: flags & NLM_F_DUMP == NLM_F_DUMP,
            read,
            messages: Vec::new(),
            unread: 0,
            interrupted: false,
            done: false,
        };
        let mut buffer = vec![0; BUFFER];
        while !replies.done {
            let size = self.socket.recv(&mut &mut buffer[..], 0).map_err(failed)?;
            replies
                .take(&buffer[..size], self.sequence)
                .map_err(failed)?;
            if replies.messages.len() > self.limit {
                return Err(NetlinkError::TooMany {
                    request: name,
                    limit: self.limit,
                });
            }
        }
        self.unread += replies.unread;
        if replies.interrupted {
            return Err(NetlinkError::Interrupted { request: name });
        }
        Ok(replies.messages)
    }
}

impl Netlink {
    /// Returns all devices.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump_by("GETLINK", &request, link)
    }

    /// Returns a device of another namespace, given this namespace's id for it. Requires
    /// `CAP_NET_ADMIN` over it. Linux 5.0 or later (`rtnl_getlink`).
    pub fn link_elsewhere(&mut self, netns: i32, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        // Also called `IFLA_TARGET_NETNSID`.
        message.attributes.push(LinkAttribute::IfNetnsId(netns));
        let request = RouteNetlinkMessage::GetLink(message);
        let replies = self.request_by("GETLINK", &request, NLM_F_REQUEST, link)?;
        Ok(replies.into_iter().next())
    }

    /// Returns all addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<LinkAddress>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump_by("GETADDR", &request, read::address)
    }

    /// Returns the id that this socket's namespace has for another one, given as an open
    /// file; `None` if it has assigned none, so that none of its devices leads there.
    pub fn namespace_id(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
        let mut message = NsidMessage::default();
        let fd = namespace.as_raw_fd().unsigned_abs();
        message.attributes.push(NsidAttribute::Fd(fd));
        let request = RouteNetlinkMessage::GetNsId(message);
        let replies = self.request("GETNSID", &request, NLM_F_REQUEST)?;
        Ok(replies.iter().find_map(|reply| match reply {
            RouteNetlinkMessage::NewNsId(message) => {
                message.attributes.iter().find_map(|a| match a {
                    NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                    _ => None,
                })
            }
            _ => None,
        }))
    }
}

/// The replies to one request, as they arrive.
struct Replies<T> {
    dump: bool,
    read: fn(&[u8]) -> Option<T>,
    messages: Vec<T>,
    unread: usize,
    interrupted: bool,
    done: bool,
}

impl<T> Replies<T> {
    fn take(&mut self, mut bytes: &[u8], sequence: u32) -> io::Result<()> {
        while bytes.len() >= 16 {
            // The header is parsed by hand: a message that this version of the parser
            // doesn't know has to be skipped, and must not end the dump.
            let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            if length < 16 || length > bytes.len() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "truncated reply",
                ));
            }
            let number = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            if number == sequence {
                self.message(&bytes[..length])?;
            }
            // Messages are aligned to 4 bytes.
            bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        }
        Ok(())
    }

    fn message(&mut self, bytes: &[u8]) -> io::Result<()> {
        // `nlmsg_type` and `nlmsg_flags`.
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]);
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        if kind < NLMSG_MIN_TYPE {
            return self.control(bytes);
        }
        match (self.read)(bytes) {
            Some(message) => self.messages.push(message),
            None => {
                tracing::debug!("netlink: a reply of type {kind} is passed over");
                self.unread += 1;
            }
        }
        self.done |= !self.dump;
        Ok(())
    }

    /// Handles the end of a dump, an error or an acknowledgement.
    fn control(&mut self, bytes: &[u8]) -> io::Result<()> {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match message.payload {
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code));
            }
            NetlinkPayload::Done(_) => self.done = true,
            NetlinkPayload::Error(error) => {
                self.done = true;
                if let Some(code) = error.code {
                    return Err(io::Error::from_raw_os_error(-code.get()));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Parses any message known to the full parser.
fn any<M: Message>(bytes: &[u8]) -> Option<M> {
    let message = NetlinkMessage::<M>::deserialize(bytes);
    match message.ok()?.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    }
}

/// Parses a device, and its tunnels if the full parser knows the message.
fn link(bytes: &[u8]) -> Option<Link> {
    let link = read::link(bytes)?;
    let Some(RouteNetlinkMessage::NewLink(message)) = any(bytes) else {
        return Some(link);
    };
    let infos = message.attributes.into_iter().filter_map(|one| match one {
        LinkAttribute::LinkInfo(info) => Some(info),
        _ => None,
    });
    let tunnels = infos.flatten().flat_map(|entry| match entry {
        LinkInfo::Data(data) => tunnels::of_device(&data),
        _ => Vec::new(),
    });
    Some(Link {
        tunnels: tunnels.collect(),
        ..link
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
