//! Conversations that stay open while things happen to the agent.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::testnet::Ns;

/// How long a connection may take to open on a busy machine.
const OPENING: Duration = Duration::from_secs(3);

/// A TCP connection to an echo server that greets with a banner.
#[derive(Debug)]
pub struct Talk {
    stream: TcpStream,
}

impl Talk {
    /// Opens a connection and reads the banner.
    pub fn open(from: &Ns, to: SocketAddr) -> Result<Self> {
        let stream = from
            .run(|| TcpStream::connect_timeout(&to, OPENING))?
            .with_context(|| format!("no connection to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(OPENING))?;
        let mut talk = Self { stream };
        let mut byte = [0];
        while byte != *b"\n" {
            talk.stream.read_exact(&mut byte).context("no banner")?;
        }
        Ok(talk)
    }

    /// Sends a word; whether it was heard back in time. After a word that was
    /// not, only [`Talk::hears`] makes sense.
    pub fn echo(&mut self, patience: Duration) -> Result<bool> {
        self.stream.write_all(b"word")?;
        self.hears(patience)
    }

    /// Whether a word comes back in time.
    pub fn hears(&mut self, patience: Duration) -> Result<bool> {
        self.stream.set_read_timeout(Some(patience))?;
        match self.stream.read_exact(&mut [0; 4]) {
            Ok(()) => Ok(true),
            Err(error) if late(&error) => Ok(false),
            Err(error) => Err(error).context("the connection broke"),
        }
    }
}

/// Numbered datagrams to an echo server, all from one port.
#[derive(Debug)]
pub struct Exchange {
    socket: UdpSocket,
    next: u32,
}

impl Exchange {
    /// Binds a port; sends nothing yet.
    pub fn open(from: &Ns, to: SocketAddr) -> Result<Self> {
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = from.run(|| {
            let socket = UdpSocket::bind(own)?;
            socket.connect(to).map(|()| socket)
        })?;
        let socket = socket.with_context(|| format!("no socket towards {to}"))?;
        Ok(Self { socket, next: 0 })
    }

    /// Sends the next datagram; whether its own echo came back in time.
    pub fn echo(&mut self, patience: Duration) -> Result<bool> {
        let number = self.next.to_be_bytes();
        self.next += 1;
        self.socket.send(&number)?;
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean for ever.
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut heard = [0; 4];
            match self.socket.recv(&mut heard) {
                Ok(4) if heard == number => return Ok(true),
                Ok(_) => {}
                Err(error) if late(&error) => {}
                Err(error) => return Err(error).context("the exchange broke"),
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }
}

fn late(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
