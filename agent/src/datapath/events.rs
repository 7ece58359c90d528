//! The records of the events ring, with names.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData, RingBuf};
use bytes::Buf;
use ringfence_ebpf::abi::{Addr, Direction, Event, Protocol, Reason};
use tokio::io::unix::AsyncFd;

use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::map_error;
use super::names::{Shared, lookup};

/// Maximum number of records returned by one call of [`Events::next`].
const BATCH: usize = 1024;

/// One denied or audited packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventRecord {
    /// Nanoseconds, `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Sender's workload.
    pub source: String,
    /// Receiver's workload.
    pub destination: String,
    /// Source address.
    pub source_address: IpAddr,
    /// Destination address.
    pub destination_address: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// A name of [`Protocol`].
    pub protocol: &'static str,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// A name of [`Reason`].
    pub reason: &'static str,
    /// The packet passed because the denial was only audited.
    pub audited: bool,
    /// Length in bytes, including the link header.
    pub len: u32,
    /// TCP flags byte, or ICMP type.
    pub detail: u8,
}

/// The stream of events.
pub struct Events {
    ring: RingBuf<MapData>,
    /// A descriptor of the same ring, for waiting; created inside a tokio runtime.
    ready: Option<AsyncFd<OwnedFd>>,
    names: Shared,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(map: Map, names: Shared) -> Result<Self, DatapathError> {
        Ok(Self {
            ring: map
                .try_into()
                .map_err(|error| map_error("opening", MapName::Events, &error))?,
            ready: None,
            names,
        })
    }

    /// Waits for records and returns the next ones, at least one.
    ///
    /// # Errors
    /// If the ring can't be waited on.
    pub async fn next(&mut self) -> io::Result<Vec<EventRecord>> {
        loop {
            let records = self.drain();
            if !records.is_empty() {
                return Ok(records);
            }
            let ready = match self.ready.take() {
                Some(ready) => ready,
                None => wait_on(&self.ring)?,
            };
            let waited = ready.readable().await.map(|mut guard| guard.clear_ready());
            self.ready = Some(ready);
            waited?;
        }
    }

    fn drain(&mut self) -> Vec<EventRecord> {
        let mut records = Vec::new();
        while records.len() < BATCH {
            let Some(item) = self.ring.next() else { break };
            records.extend(decode(&item).map(|event| record(&event, &self.names)));
        }
        records
    }
}

fn wait_on(ring: &RingBuf<MapData>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = ring.as_fd().try_clone_to_owned()?;
    // SAFETY: the registered value owns the descriptor, which isn't replaced or closed before that
    // value is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Decodes a record field by field, since the ring's memory has no guaranteed alignment.
fn decode(mut bytes: &[u8]) -> Option<Event> {
    if bytes.remaining() < size_of::<Event>() {
        return None;
    }
    let time = bytes.get_u64_ne();
    let (source, destination) = (address(&mut bytes), address(&mut bytes));
    Some(Event {
        time,
        source,
        destination,
        source_workload: bytes.get_u32_ne(),
        destination_workload: bytes.get_u32_ne(),
        endpoint: bytes.get_u32_ne(),
        buffer: bytes.get_u32_ne(),
        len: bytes.get_u32_ne(),
        ingress_ifindex: bytes.get_u32_ne(),
        source_port: bytes.get_u16_ne(),
        destination_port: bytes.get_u16_ne(),
        ethertype: bytes.get_u16_ne(),
        protocol: bytes.get_u8(),
        direction: bytes.get_u8(),
        reason: bytes.get_u8(),
        audited: bytes.get_u8(),
        detail: bytes.get_u8(),
        pad: [0; 13],
    })
}

fn address(bytes: &mut &[u8]) -> Addr {
    let mut octets = [0; 16];
    bytes.copy_to_slice(&mut octets);
    Addr::v6(octets)
}

fn record(event: &Event, names: &Shared) -> EventRecord {
    EventRecord {
        time: event.time,
        source: lookup(names, event.source_workload),
        destination: lookup(names, event.destination_workload),
        source_address: event.source.into(),
        destination_address: event.destination.into(),
        source_port: event.source_port,
        destination_port: event.destination_port,
        protocol: Protocol::from_iana(event.protocol).name(),
        direction: Direction::from_u8(event.direction).map_or("unknown", Direction::name),
        reason: Reason::from_u8(event.reason).map_or("unknown", Reason::name),
        audited: event.audited != 0,
        len: event.len,
        detail: event.detail,
    }
}
