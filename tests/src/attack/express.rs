//! Frames that pass by the sender's protocols, queues and classifiers: AF_XDP sockets in
//! copy mode, which a process with CAP_NET_RAW may open (`xsk_create`).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::net::if_::if_nametoindex;
use xdp_socket::socket::TxSocket;
use xdp_socket::{XdpConfig, create_tx_socket};

use crate::testnet::Ns;

/// How long a queue may be another socket's, and how often it is asked for.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(5);

/// A socket that sends by a device's first queue, as a packet of the kernel's own would
/// be handed to the driver (`__dev_direct_xmit`). No program is needed for that.
pub struct Express {
    socket: TxSocket,
}

impl Express {
    /// Opens a device of a namespace.
    pub fn open(ns: &Ns, device: &str) -> Result<Self> {
        let config = XdpConfig {
            zero_copy: Some(false),
            ..XdpConfig::default()
        };
        let deadline = Instant::now() + PATIENCE;
        let socket = ns.run(|| {
            let index = if_nametoindex(device)?;
            loop {
                match create_tx_socket(index, 0, Some(config)) {
                    // A queue is its last socket's until a worker has cleared that away.
                    Err(_) if Instant::now() < deadline => thread::sleep(LOOK),
                    made => return made.context("AF_XDP socket"),
                }
            }
        })??;
        Ok(Self { socket })
    }

    /// Sends one frame; there is room for as many as one test sends.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let room = self.socket.seek_and_peek(frame.len());
        let room = room.map_err(|error| anyhow!("no room: {error}"))?;
        ensure!(room.len() == frame.len(), "{} bytes of room", room.len());
        room.copy_from_slice(frame);
        let sent = self.socket.commit_and_kick(1);
        sent.map_err(|error| anyhow!("can't send: {error}"))
    }
}
