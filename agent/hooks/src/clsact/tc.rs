//! Qdiscs and filters over rtnetlink. Linux 4.5 (clsact).
//!
//! aya attaches by netlink too, but takes names instead of indexes. It neither
//! lists filters nor leaves them in place when its link is dropped.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::programs::TcAttachType;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::errno::Errno;

use crate::{HookError, chain};
use ringfence_netlink::{Netlink, NetlinkError};

/// `ETH_P_ALL` (linux/if_ether.h): a filter for packets of every protocol.
const EVERY_PROTOCOL: u16 = 3;
/// The kind of qdisc that has filters on both sides.
pub(super) const CLSACT: &str = "clsact";

/// The position of a filter: priorities run from the lowest number up, and within
/// one priority the filter that was added last runs first, whatever its handle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position {
    pub(super) priority: u16,
    pub(super) handle: u32,
}

/// One filter, as the kernel lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    pub(super) place: Position,
    /// `bpf`, `flower`, …
    pub(super) kind: String,
    /// Whether the filter sees packets of every protocol.
    pub(super) every_protocol: bool,
    /// The name under which a program was attached.
    pub(super) name: String,
    /// The program's id; 0 for other kinds.
    pub(super) program: u32,
}

impl Filter {
    fn unreadable() -> Self {
        Self {
            place: Position {
                priority: 0,
                handle: 0,
            },
            kind: "unreadable".to_owned(),
            every_protocol: false,
            name: String::new(),
            program: 0,
        }
    }
}

/// A program to attach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'static str,
    pub(super) id: u32,
    pub(super) fd: BorrowedFd<'a>,
}

/// A socket in the node's namespace.
pub(super) struct Tc(Netlink);

impl Tc {
    /// Opens the socket in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self, HookError> {
        let netlink = Netlink::open().map_err(|error| failed("opening a socket".into(), &error))?;
        Ok(Self(netlink))
    }

    /// Returns the filters of one side of a device, in the order in which they run. Empty
    /// if there is no qdisc, or no device.
    ///
    /// A plain `ingress` qdisc has no egress side, but lists its filters for either
    /// (`ingress_tcf_block` of net/sched/sch_ingress.c).
    pub(super) fn filters(
        &mut self,
        ifindex: u32,
        side: TcAttachType,
    ) -> Result<Vec<Filter>, HookError> {
        let listed = self.listed(ifindex, side)?;
        if side == TcAttachType::Egress
            && !listed.is_empty()
            && self.qdisc(ifindex)?.as_deref() != Some(CLSACT)
        {
            return Ok(Vec::new());
        }
        Ok(listed)
    }

    fn listed(&mut self, ifindex: u32, side: TcAttachType) -> Result<Vec<Filter>, HookError> {
        let request = RouteNetlinkMessage::GetTrafficFilter(message(ifindex, parent(side)));
        let unread = self.0.unread;
        let replies = match self.0.dump("GETTFILTER", &request) {
            Err(error) if errno(&error) == Some(Errno::ENODEV) => Vec::new(),
            replies => replies
                .map_err(|error| failed(format!("listing the filters of {ifindex}"), &error))?,
        };
        let mut filters: Vec<Filter> = replies.iter().filter_map(filter).collect();
        if self.0.unread > unread {
            // A filter of unknown owner and kind: at least report that it exists.
            filters.push(Filter::unreadable());
        }
        Ok(filters)
    }

    /// Returns the kind of qdisc through which packets enter a device, if it has one.
    pub(super) fn qdisc(&mut self, ifindex: u32) -> Result<Option<String>, HookError> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let replies = self.0.dump("GETQDISC", &request);
        let replies =
            replies.map_err(|error| failed(format!("listing the qdiscs of {ifindex}"), &error))?;
        Ok(replies.iter().find_map(|reply| {
            let RouteNetlinkMessage::NewQueueDiscipline(message) = reply else {
                return None;
            };
            let here =
                message.header.index == index(ifindex) && message.header.parent == TcHandle::CLSACT;
            here.then(|| kind(message)).flatten()
        }))
    }

    /// Adds a clsact qdisc to a device; returns false if it already has one.
    pub(super) fn add_clsact(&mut self, ifindex: u32) -> Result<bool, HookError> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex));
        match self.order("NEWQDISC", &request, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(false),
            Err(error) => Err(failed(format!("adding clsact to {ifindex}"), &error)),
        }
    }

    /// Removes a device's clsact qdisc, and all filters with it.
    pub(super) fn remove_clsact(&mut self, ifindex: u32) -> Result<(), HookError> {
        let request = RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex));
        gone(self.order("DELQDISC", &request, 0))
            .map_err(|error| failed(format!("removing clsact from {ifindex}"), &error))
    }

    /// Adds a filter, in front of those of its priority. Fails if its position is taken.
    pub(super) fn add(
        &mut self,
        ifindex: u32,
        side: TcAttachType,
        place: Position,
        program: Candidate<'_>,
    ) -> Result<(), HookError> {
        self.put(ifindex, side, place, program, NLM_F_EXCL)
    }

    /// Replaces the program of an existing filter. The kernel swaps them under RCU
    /// (`cls_bpf_change` of net/sched/cls_bpf.c), so every packet runs one of the two.
    pub(super) fn replace(
        &mut self,
        ifindex: u32,
        side: TcAttachType,
        place: Position,
        program: Candidate<'_>,
    ) -> Result<(), HookError> {
        self.put(ifindex, side, place, program, 0)
    }

    fn put(
        &mut self,
        ifindex: u32,
        side: TcAttachType,
        place: Position,
        program: Candidate<'_>,
        flags: u16,
    ) -> Result<(), HookError> {
        let options = [
            TcFilterBpfOption::ProgFd(program.fd.as_raw_fd().unsigned_abs()),
            TcFilterBpfOption::ProgName(program.name.to_owned()),
            // The program's return value is the action.
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let mut message = placed(ifindex, side, place);
        message.attributes.push(TcAttribute::Options(
            options.into_iter().map(TcOption::Bpf).collect(),
        ));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        self.order("NEWTFILTER", &request, NLM_F_CREATE | flags)
            .map_err(|error| failed(format!("attaching {} to {ifindex}", program.name), &error))
    }

    /// Removes a filter. It is no error if it is already gone.
    pub(super) fn remove(
        &mut self,
        ifindex: u32,
        side: TcAttachType,
        place: Position,
    ) -> Result<(), HookError> {
        let request = RouteNetlinkMessage::DelTrafficFilter(placed(ifindex, side, place));
        gone(self.order("DELTFILTER", &request, 0))
            .map_err(|error| failed(format!("removing a filter of {ifindex}"), &error))
    }

    fn order(
        &mut self,
        name: &'static str,
        request: &RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.0.request(name, request, flags).map(drop)
    }
}

/// Ignores errors about a missing device or object: a vanished device takes everything with it.
fn gone(done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match done {
        Err(error) if matches!(errno(&error), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
        done => done,
    }
}

fn index(ifindex: u32) -> i32 {
    ifindex.cast_signed()
}

fn message(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index(ifindex));
    message.header.parent = parent;
    message
}

fn clsact(ifindex: u32) -> TcMessage {
    let mut message = message(ifindex, TcHandle::CLSACT);
    message.header.handle.major = TcHandle::CLSACT.major;
    message.attributes.push(TcAttribute::Kind(CLSACT.into()));
    message
}

fn placed(ifindex: u32, side: TcAttachType, place: Position) -> TcMessage {
    let mut message = message(ifindex, parent(side));
    message.header.handle = place.handle.into();
    // TC_H_MAKE: the priority in the high half, the protocol in the low half, in network order.
    message.header.info = u32::from(place.priority) << 16 | u32::from(EVERY_PROTOCOL.to_be());
    let kind = TcAttribute::Kind(TcFilterBpf::KIND.into());
    message.attributes.push(kind);
    message
}

fn parent(side: TcAttachType) -> TcHandle {
    let minor = match side {
        TcAttachType::Egress => TcHandle::MIN_EGRESS,
        _ => TcHandle::MIN_INGRESS,
    };
    TcHandle {
        major: TcHandle::CLSACT.major,
        minor,
    }
}

fn kind(message: &TcMessage) -> Option<String> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        })
}

/// The bits of a `u32` filter's handle that are 0 if it is one of its hash tables
/// (`TC_U32_HASH` and `TC_U32_NODE` of linux/pkt_cls.h), which the kernel lists as well.
const IN_HASH_TABLE: u32 = 0x000f_ffff;

/// Parses a filter of the chain in which every packet starts. The kernel also lists the
/// head of each priority, with handle 0. Other chains are reached only through the action
/// of a filter in this one.
fn filter(message: &RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else {
        return None;
    };
    let handle = u32::from(message.header.handle);
    let elsewhere = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Chain(1..));
    if handle == 0 || message.attributes.iter().any(elsewhere) {
        return None;
    }
    let kind = kind(message).unwrap_or_default();
    if kind == "u32" && handle & IN_HASH_TABLE == 0 {
        return None;
    }
    let [priority, protocol] = [message.header.info >> 16, message.header.info & 0xffff]
        .map(|half| u16::try_from(half).unwrap_or_default());
    let mut filter = Filter {
        place: Position { priority, handle },
        kind,
        every_protocol: u16::from_be(protocol) == EVERY_PROTOCOL,
        name: String::new(),
        program: 0,
    };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name.clone_from(name),
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = *id,
                _ => {}
            }
        }
    }
    Some(filter)
}

fn errno(error: &NetlinkError) -> Option<Errno> {
    match error {
        NetlinkError::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn failed(operation: String, error: &NetlinkError) -> HookError {
    HookError::said(operation, chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(place: Position, chain: u32) -> RouteNetlinkMessage {
        let mut message = placed(7, TcAttachType::Ingress, place);
        message.attributes.push(TcAttribute::Chain(chain));
        let options = [
            TcFilterBpfOption::ProgName("from_pod".to_owned()),
            TcFilterBpfOption::ProgId(42),
        ];
        let options = options.into_iter().map(TcOption::Bpf).collect();
        message.attributes.push(TcAttribute::Options(options));
        RouteNetlinkMessage::NewTrafficFilter(message)
    }

    #[test]
    fn a_filter_is_read_back_as_it_was_asked_for() {
        let place = Position {
            priority: 0x1234,
            handle: 0x5246_0001,
        };
        let found = filter(&reply(place, 0)).unwrap();
        assert_eq!((found.place, found.program), (place, 42));
        assert_eq!(
            (found.kind.as_str(), found.name.as_str()),
            ("bpf", "from_pod")
        );
        assert!(found.every_protocol);
    }

    #[test]
    fn heads_of_priorities_and_filters_of_other_chains_are_passed_over() {
        let place = |handle| Position {
            priority: 1,
            handle,
        };
        assert_eq!(filter(&reply(place(0), 0)), None);
        assert_eq!(filter(&reply(place(1), 5)), None);
        assert!(filter(&reply(place(1), 0)).is_some());
    }

    #[test]
    fn a_hash_table_of_u32_is_no_filter() {
        let listed = |handle| {
            let place = Position {
                priority: 1,
                handle,
            };
            let mut message = placed(7, TcAttachType::Ingress, place);
            message.attributes = vec![TcAttribute::Kind("u32".to_owned())];
            filter(&RouteNetlinkMessage::NewTrafficFilter(message))
        };
        assert_eq!(listed(0x8000_0000), None);
        assert_eq!(
            listed(0x8000_0800).map(|found| found.kind),
            Some("u32".to_owned())
        );
    }
}
