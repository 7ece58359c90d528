//! Servers inside a namespace: TCP with a banner, then echo; UDP echo.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use super::Ns;

/// How often a server looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);
/// How long a silent client is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers that answer until they are dropped.
#[derive(Debug, Default)]
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on a TCP port of all addresses of both families. A client is
    /// greeted with `banner` and a newline, then hears its own words.
    pub fn tcp(mut self, ns: &Ns, port: u16, banner: &str) -> Result<Self> {
        let listener: TcpListener = ns
            .run(|| listen(Type::STREAM, port))?
            .with_context(|| format!("can't listen on TCP port {port}"))?
            .into();
        let (stop, banner) = (Arc::clone(&self.stop), Arc::from(format!("{banner}\n")));
        self.threads
            .push(thread::spawn(move || accept(&listener, &stop, &banner)));
        Ok(self)
    }

    /// Echoes datagrams on a UDP port of all addresses of both families.
    pub fn udp(mut self, ns: &Ns, port: u16) -> Result<Self> {
        let socket: UdpSocket = ns
            .run(|| listen(Type::DGRAM, port))?
            .with_context(|| format!("can't listen on UDP port {port}"))?
            .into();
        socket.set_read_timeout(Some(TICK))?;
        let stop = Arc::clone(&self.stop);
        self.threads
            .push(thread::spawn(move || echo_datagrams(&socket, &stop)));
        Ok(self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

fn listen(kind: Type, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    if kind == Type::STREAM {
        socket.listen(1024)?;
        // `accept` obeys the receive timeout.
        socket.set_read_timeout(Some(TICK))?;
    }
    Ok(socket)
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>, banner: &Arc<str>) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            let (stop, banner) = (Arc::clone(stop), Arc::clone(banner));
            // An error is the client's; it notices itself.
            thread::spawn(move || drop(converse(stream, &stop, &banner)));
        }
    }
}

fn converse(mut stream: TcpStream, stop: &AtomicBool, banner: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(banner.as_bytes())?;
    let mut buffer = [0; 4096];
    let mut silent = Duration::ZERO;
    while silent < PATIENCE && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                silent = Duration::ZERO;
                stream.write_all(&buffer[..length])?;
            }
            Err(error) if again(&error) => silent += TICK,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
