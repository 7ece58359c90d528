//! Links, addresses and namespace ids over rtnetlink. Linux 4.9 or later.
//!
//! A socket belongs to the network namespace of the thread that opened it and
//! stays there, so one thread can hold the node's socket and visit the pods.

// A test that unwraps says where it failed, and that is all it should do.
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

/// Types below are netlink's own, of linux/netlink.h; the others its users'.
const NLMSG_MIN_TYPE: u16 = 0x10;
/// A dump that another change interrupts is begun again; this often at most.
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
        /// What was asked.
        request: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The interfaces changed faster than they could be listed.
    #[error("netlink {request}: interrupted {ATTEMPTS} times by other changes")]
    Interrupted {
        /// What was asked.
        request: &'static str,
    },
    /// There is more of it than the socket was told to read.
    #[error("netlink {request}: more than {limit} of them, so none is read")]
    TooMany {
        /// What was asked.
        request: &'static str,
        /// How many would have been read.
        limit: usize,
    },
}

/// One network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name; what isn't UTF-8 in it is escaped.
    pub name: String,
    /// Its MAC, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// `IFLA_LINK`: for a veth the index of its other end.
    pub peer: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the namespace of that end; absent if it is this one.
    pub peer_netns: Option<i32>,
    /// `IFLA_INFO_KIND`, as in `veth`; empty for physical devices and `lo`.
    pub kind: String,
    /// `ifi_type`: what its frames start with.
    pub medium: LinkLayerType,
    /// UDP ports by which tunnels of this device run, here or at its other end.
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

/// A blocking netlink socket, of rtnetlink unless said otherwise, in the namespace
/// in which it was opened.
pub struct Netlink<M = RouteNetlinkMessage> {
    socket: Socket,
    sequence: u32,
    limit: usize,
    /// Replies so far that couldn't be read; may be set back.
    pub unread: usize,
    messages: PhantomData<M>,
}

/// What goes both ways over one kind of socket.
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

    /// Refuses answers of more than so many messages, for namespaces that others
    /// may fill. After such an answer the socket is of no more use.
    pub const fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// If it is refused, or other changes interrupt it each time.
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

    /// Asks for one thing, or orders it: each reply that could be read.
    ///
    /// # Errors
    /// What the kernel answers, and what becomes of the socket.
    pub fn request(
        &mut self,
        name: &'static str,
        request: &M,
        flags: u16,
    ) -> Result<Vec<M>, NetlinkError> {
        self.request_by(name, request, flags, any)
    }

    /// Each reply as a function reads it from the whole message; one that it can't
    /// is passed over.
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
    /// All devices.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump_by("GETLINK", &request, link)
    }

    /// One device of another namespace, by the id under which this one knows that. Needs
    /// `CAP_NET_ADMIN` over it. Linux 5.0 or later (`rtnl_getlink`).
    pub fn link_elsewhere(&mut self, netns: i32, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        // `IFLA_TARGET_NETNSID` is its other name.
        message.attributes.push(LinkAttribute::IfNetnsId(netns));
        let request = RouteNetlinkMessage::GetLink(message);
        let replies = self.request_by("GETLINK", &request, NLM_F_REQUEST, link)?;
        Ok(replies.into_iter().next())
    }

    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<LinkAddress>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump_by("GETADDR", &request, read::address)
    }

    /// The id by which this socket's namespace knows another, given as an open
    /// file; none if it has given it no id, so that none of its devices leads there.
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

/// The replies to one request, as they come in.
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
            // The header is read by hand: a message that this version of the parser
            // doesn't know must be passed over, not end the dump.
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

    /// The end of a dump, an error or an acknowledgement.
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

/// Any message that the parser of them all knows.
fn any<M: Message>(bytes: &[u8]) -> Option<M> {
    let message = NetlinkMessage::<M>::deserialize(bytes);
    match message.ok()?.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    }
}

/// A device, and its tunnels as far as the parser of all messages knows it.
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
