//! Raw Ethernet frames in and out of a device, for the packet tests.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc::PACKET_OUTGOING;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, ControlMessage, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol,
    SockType, SockaddrLike as _, bind, recvfrom, sendmmsg, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::Ns;

/// An AF_PACKET socket bound to one device of a namespace.
#[derive(Debug)]
pub struct Frames {
    fd: OwnedFd,
    device: LinkAddr,
}

impl Frames {
    /// Opens a device; from then on received frames queue up.
    pub fn open(ns: &Ns, device: &str) -> Result<Self> {
        ns.run(|| {
            let (fd, address) = (packet_socket()?, link_address(device)?);
            // Its protocol is 0 there: the socket's own, all of them, stays.
            bind(fd.as_raw_fd(), &address).with_context(|| format!("bind to {device}"))?;
            Ok(Self {
                fd,
                device: address,
            })
        })?
    }

    /// The MAC of a device, without a socket on it: closing one waits for all readers of
    /// the kernel's list of sockets (`packet_release`).
    pub fn mac_of(ns: &Ns, device: &str) -> Result<[u8; 6]> {
        let address = ns.run(|| link_address(device))??;
        address
            .addr()
            .with_context(|| format!("{device} has no MAC"))
    }

    /// The device's MAC.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.device.addr()
    }

    /// Sends one frame, from its Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = sendto(self.fd.as_raw_fd(), frame, &self.device, MsgFlags::empty())
            .context("sendto(AF_PACKET)")?;
        anyhow::ensure!(sent == frame.len(), "sent {sent} of {} bytes", frame.len());
        Ok(())
    }

    /// Sends frames in one system call; how many of them, from the first on,
    /// the kernel took.
    pub fn send_many(&self, frames: &[Vec<u8>]) -> Result<usize> {
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|f| [IoSlice::new(f)]).collect();
        let to = vec![Some(self.device); frames.len()];
        let mut headers = MultiHeaders::preallocate(frames.len(), None);
        let no_control: [ControlMessage<'_>; 0] = [];
        let fd = self.fd.as_raw_fd();
        let sent = sendmmsg(fd, &mut headers, &slices, to, no_control, MsgFlags::empty());
        Ok(sent.context("sendmmsg(AF_PACKET)")?.count())
    }

    /// The next frame that came in and that `wanted` wants, if one comes in
    /// time. Frames that left by this device don't count.
    pub fn receive(
        &self,
        timeout: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean for ever.
            let wait = i64::try_from(left.as_micros().max(1))?;
            setsockopt(&self.fd, ReceiveTimeout, &TimeVal::microseconds(wait))?;
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                Ok((length, from)) if !outgoing(from) && wanted(&buffer[..length]) => {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error).context("recvfrom(AF_PACKET)"),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }
}

fn outgoing(from: Option<LinkAddr>) -> bool {
    from.is_some_and(|address| address.pkttype() == PACKET_OUTGOING)
}

/// A socket for all frames of all devices of the thread's namespace, until it is bound.
pub(crate) fn packet_socket() -> Result<OwnedFd> {
    socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("socket(AF_PACKET)")
}

/// A link-layer address can't be made up safely; the system lists them.
pub(crate) fn link_address(device: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("getifaddrs")?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .filter(|address| address.family() == Some(AddressFamily::Packet))
        .with_context(|| format!("no device {device}"))
}
