//! Frames that say what is still to be done to them, as virtual machines send them.
//!
//! A process with CAP_NET_RAW, which containers have by default, may open an
//! AF_PACKET socket with `PACKET_VNET_HDR` (packet(7)) and put a `virtio_net_hdr`
//! in front of each frame.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc; // named by the macro below
use nix::sys::socket::{LinkAddr, MsgFlags, sendto, setsockopt};

use crate::testnet::{Ns, link_address, packet_socket};

/// `PACKET_VNET_HDR` of linux/if_packet.h.
const PACKET_VNET_HDR: i32 = 15;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of linux/virtio_net.h.
const NEEDS_CSUM: u8 = 1;

/// `PACKET_VNET_HDR` as an option that can be set.
#[derive(Clone, Copy, Debug)]
struct WithVnetHeader;
nix::setsockopt_impl!(
    WithVnetHeader,
    libc::SOL_PACKET,
    PACKET_VNET_HDR,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// What is still to be done to a frame: the fields of `virtio_net_hdr` in the
/// machine's byte order.
#[derive(Clone, Copy, Default, Debug)]
pub struct VnetHeader {
    /// Where summing starts, from the frame's first byte; 0: nothing to sum.
    pub csum_start: u16,
    /// Where the sum goes, from `csum_start` on.
    pub csum_offset: u16,
    /// `VIRTIO_NET_HDR_GSO_*`: 1 TCP over IPv4, 3 UDP in fragments, 4 TCP over
    /// IPv6, 5 UDP in datagrams; 0 none.
    pub gso_type: u8,
    /// Bytes of headers in front of what is to be cut.
    pub hdr_len: u16,
    /// Payload bytes of each piece.
    pub gso_size: u16,
}

impl VnetHeader {
    /// A checksum from `start` on that goes to the byte `at` of the frame.
    pub fn checksum(start: usize, at: usize) -> Self {
        Self {
            csum_start: start as u16,
            csum_offset: (at - start) as u16,
            ..Self::default()
        }
    }

    fn bytes(&self) -> [u8; 10] {
        let flags = if self.csum_start == 0 { 0 } else { NEEDS_CSUM };
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

/// An AF_PACKET socket on one device whose frames carry a [`VnetHeader`].
#[derive(Debug)]
pub struct Injector {
    fd: OwnedFd,
    device: LinkAddr,
}

impl Injector {
    /// Opens a device of a namespace.
    pub fn open(ns: &Ns, device: &str) -> Result<Self> {
        ns.run(|| {
            let (fd, device) = (packet_socket()?, link_address(device)?);
            setsockopt(&fd, WithVnetHeader, &true).context("PACKET_VNET_HDR")?;
            Ok(Self { fd, device })
        })?
    }

    /// Sends one frame; whether the kernel took it, which checks the header.
    pub fn send(&self, header: &VnetHeader, frame: &[u8]) -> Result<bool> {
        let bytes = [&header.bytes()[..], frame].concat();
        match sendto(self.fd.as_raw_fd(), &bytes, &self.device, MsgFlags::empty()) {
            Ok(_) => Ok(true),
            // The latter where it can't cut what it took (`validate_xmit_skb`).
            Err(Errno::EINVAL | Errno::ENOMEM) => Ok(false),
            Err(error) => Err(error).context("sendto(AF_PACKET) with a virtio_net_hdr"),
        }
    }
}
