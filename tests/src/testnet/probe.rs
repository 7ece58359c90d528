//! Clients: one connection or datagram, and what became of it.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::Ns;

/// What became of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Somebody answered.
    Open,
    /// The other end refused: nobody listens there, yet packets pass.
    Refused,
    /// No answer in time: what a dropped packet looks like.
    TimedOut,
    /// The network has no way there.
    Unreachable,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Unreachable => "unreachable",
        })
    }
}

/// Opens a TCP connection from a namespace and closes it again.
///
/// With a timeout below one second a dropped attempt is exactly one packet:
/// the first retransmission of a SYN comes after a second.
pub fn probe_tcp(from: &Ns, address: IpAddr, port: u16, timeout: Duration) -> Result<Probe> {
    let to = SocketAddr::new(address, port);
    classify(from.run(|| TcpStream::connect_timeout(&to, timeout).map(drop))?)
}

/// The same from one of several addresses that the namespace has.
pub fn probe_tcp_from(
    from: &Ns,
    source: IpAddr,
    address: IpAddr,
    port: u16,
    timeout: Duration,
) -> Result<Probe> {
    let to = SocketAddr::new(address, port);
    classify(from.run(|| connect_from(source, to, timeout).map(drop))?)
}

/// Opens a TCP connection and reads the banner of the server: who answered, or
/// what became of the attempt.
pub fn call_tcp(
    from: &Ns,
    source: Option<IpAddr>,
    to: SocketAddr,
    timeout: Duration,
) -> Result<std::result::Result<String, Probe>> {
    let attempt = from.run(|| {
        let mut stream = match source {
            Some(source) => connect_from(source, to, timeout)?,
            None => TcpStream::connect_timeout(&to, timeout)?,
        };
        stream.set_read_timeout(Some(timeout))?;
        let mut banner = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
            banner.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&banner).into_owned())
    })?;
    match attempt {
        Ok(banner) => Ok(Ok(banner)),
        Err(error) => classify::<()>(Err(error)).map(Err),
    }
}

/// Sends a datagram from a namespace and waits for its echo.
pub fn probe_udp(from: &Ns, address: IpAddr, port: u16, timeout: Duration) -> Result<Probe> {
    let attempt = from.run(|| {
        let socket = udp_socket(address)?;
        socket.connect((address, port))?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send(b"probe")?;
        socket.recv(&mut [0; 64]).map(drop)
    })?;
    classify(attempt)
}

/// Sends exactly `count` datagrams of `bytes` bytes of payload, without waiting
/// for answers.
pub fn send_udp(from: &Ns, address: IpAddr, port: u16, count: u32, bytes: usize) -> Result<()> {
    from.run(|| {
        let socket = udp_socket(address)?;
        let payload = vec![0; bytes];
        // Unconnected, so that an ICMP error doesn't fail a later send.
        (0..count).try_for_each(|_| socket.send_to(&payload, (address, port)).map(drop))
    })?
    .with_context(|| format!("can't send UDP to {address} port {port}"))
}

fn udp_socket(to: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })
}

fn connect_from(source: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), timeout)?;
    Ok(socket.into())
}

pub(super) fn classify<T>(attempt: io::Result<T>) -> Result<Probe> {
    let Err(error) = attempt else {
        return Ok(Probe::Open);
    };
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Probe::Refused),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Probe::TimedOut),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Probe::Unreachable),
        _ => Err(error).context("the probe itself failed"),
    }
}
