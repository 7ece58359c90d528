//! Pings, and packets of protocols that the machine may have no sockets for.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::probe::classify;
use super::{Ns, Probe};

/// Sends one echo request from a namespace and waits for the reply.
pub fn ping(from: &Ns, address: IpAddr, timeout: Duration) -> Result<Probe> {
    // Echo sockets fill in id and checksum and take no other's reply; by default
    // they are for nobody. The range is IPv6's too.
    from.sysctl("net/ipv4/ping_group_range", "0 0")?;
    let (kind, protocol) = match address {
        IpAddr::V4(_) => (8, Protocol::ICMPV4),
        IpAddr::V6(_) => (128, Protocol::ICMPV6),
    };
    let attempt = from.run(|| {
        let to = SocketAddr::new(address, 0);
        let mut socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(protocol))?;
        socket.connect(&to.into())?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send(&[kind, 0, 0, 0, 0, 0, 0, 1])?;
        socket.read(&mut [0; 64]).map(drop)
    })?;
    classify(attempt)
}

/// Sends one packet of any protocol; whether it arrives in the other namespace.
/// Nobody answers, whatever the kernel knows of the protocol. No two payloads
/// that are on their way at once may be equal.
pub fn arrives(
    (from, to): (&Ns, &Ns),
    address: IpAddr,
    protocol: u8,
    payload: &[u8],
    timeout: Duration,
) -> Result<bool> {
    let target = SocketAddr::new(address, 0);
    let open = || {
        let protocol = Protocol::from(i32::from(protocol));
        Socket::new(Domain::for_address(target), Type::RAW, Some(protocol))
    };
    let mut receiver = to.run(open)?.context("no raw socket")?;
    let sender = from.run(open)?.context("no raw socket")?;
    sender
        .send_to(payload, &target.into())
        .with_context(|| format!("can't send protocol {protocol} to {address}"))?;
    let deadline = Instant::now() + timeout;
    let mut packet = [0; 1500];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        receiver.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match receiver.read(&mut packet) {
            // IPv4's come with their IP header.
            Ok(length) if packet[..length].ends_with(payload) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("recv from a raw socket"),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// An SCTP packet that opens an association; its checksum is nobody's concern.
pub fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    // No tag yet and no checksum; INIT of 20 bytes: its tag, a window, one stream
    // each way, the first number.
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    packet
}
