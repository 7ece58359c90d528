//! The kinds of traffic that `wire` measures, over plain sockets.
//!
//! Server and client have a thread each, on one CPU that is busy throughout: with
//! two, who wakes whom, and when, is most of what a round shows (a stream's
//! ratios spread several times as far over two CPUs).

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ringfence_tests::testnet::{Ns, Probe, probe_tcp};

/// Where all of it runs.
const CPU: usize = 0;
/// The server's port, which policy lets the client call.
const PORT: u16 = 8080;
/// Before a stream's or an exchange's figures count: slow start is over.
const WARM_UP: Duration = Duration::from_millis(30);
/// Bytes of a write, and of a read.
const CHUNK: usize = 256 << 10;
/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// Between two looks at the clock.
const BATCH: u32 = 32;
/// No packet is on its way for so long.
const LOST: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Measure {
    /// One connection, as many bytes as it takes.
    Stream,
    /// One connection, one small message each way at a time.
    Request,
    /// The same where the sender's stack computes its checksums.
    Computed,
    /// Connections, each closed by the server as soon as it is open.
    Connect,
}

impl Measure {
    pub(crate) const ALL: [Self; 4] = [Self::Stream, Self::Request, Self::Computed, Self::Connect];

    /// As the table calls it, and the unit of its figures: what one costs, so
    /// that less is better and a ratio has an upper bound.
    pub(crate) const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Stream => ("stream", "s/GiB"),
            Self::Request => ("request", "us/trip"),
            Self::Computed => ("computed", "us/trip"),
            Self::Connect => ("connect", "us/conn"),
        }
    }
}

/// Where the client is and where it calls.
pub(crate) struct Path<'a> {
    pub(crate) client: &'a Ns,
    pub(crate) server: &'a Ns,
    pub(crate) address: std::net::IpAddr,
}

impl Path<'_> {
    /// What became of a connection to a port that policy doesn't open; nobody
    /// listens there.
    pub(crate) fn knock(&self) -> Result<Probe> {
        probe_tcp(
            self.client,
            self.address,
            PORT + 1,
            Duration::from_millis(100),
        )
    }

    /// Runs traffic for so long; what one unit of it cost.
    pub(crate) fn measure(&self, what: Measure, time: Duration) -> Result<f64> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let listener = self
            .server
            .run(|| TcpListener::bind(any))?
            .context("can't listen")?;
        let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let (received, listener, done) = (&received, &listener, &done);
            let server = scope.spawn(move || {
                pin()?;
                serve(what, listener, received, done)
            });
            let to = SocketAddr::new(self.address, PORT);
            let cost = self.client.run(|| {
                pin()?;
                match what {
                    Measure::Stream => stream(to, time, received),
                    Measure::Request | Measure::Computed => request(to, time),
                    Measure::Connect => connect(to, time),
                }
            })?;
            // Whatever became of the client: the server waits for a last caller.
            done.store(true, Ordering::Relaxed);
            let end = self
                .client
                .run(|| TcpStream::connect_timeout(&to, LOST).map(drop))?;
            let served = server.join().expect("the server doesn't panic");
            let cost = cost?;
            end.context("can't end the server")?;
            served?;
            Ok(cost)
        })
    }
}

fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(CPU)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("can't run on CPU {CPU}"))
}

/// Until a caller comes when all is done.
fn serve(
    what: Measure,
    listener: &TcpListener,
    received: &AtomicU64,
    done: &AtomicBool,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let (mut stream, _) = listener.accept()?;
        if done.load(Ordering::Relaxed) {
            return Ok(());
        }
        if what == Measure::Connect {
            // Who closes first keeps the port: the client never runs out of them.
            continue;
        }
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOST))?;
        loop {
            let length = match what {
                Measure::Stream => stream.read(&mut buffer)?,
                _ => stream.read(&mut buffer[..MESSAGE])?,
            };
            if length == 0 {
                break;
            }
            received.fetch_add(length as u64, Ordering::Relaxed);
            if what != Measure::Stream {
                stream.write_all(&buffer[..length])?;
            }
        }
    }
}

fn open(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, LOST).context("no connection")?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(LOST))?;
    stream.set_read_timeout(Some(LOST))?;
    Ok(stream)
}

/// Seconds a GiB, by what arrived.
fn stream(to: SocketAddr, time: Duration, received: &AtomicU64) -> Result<f64> {
    let mut stream = open(to)?;
    let chunk = vec![0; CHUNK];
    let mut send_for = |time: Duration| -> Result<(u64, Duration)> {
        let (before, start) = (received.load(Ordering::Relaxed), Instant::now());
        while start.elapsed() < time {
            stream.write_all(&chunk)?;
        }
        Ok((received.load(Ordering::Relaxed) - before, start.elapsed()))
    };
    send_for(WARM_UP)?;
    let (bytes, took) = send_for(time)?;
    ensure!(bytes > 0, "nothing arrived");
    Ok(took.as_secs_f64() / bytes as f64 * f64::from(1 << 30))
}

/// Microseconds a round trip.
fn request(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = open(to)?;
    let mut message = [1; MESSAGE];
    let mut trips_for = |time| {
        each(time, || {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            Ok(())
        })
    };
    trips_for(WARM_UP)?;
    trips_for(time)
}

/// Microseconds a connection, from its SYN until both have closed.
fn connect(to: SocketAddr, time: Duration) -> Result<f64> {
    each(time, || {
        let mut stream = TcpStream::connect_timeout(&to, LOST).context("no connection")?;
        ensure!(stream.read(&mut [0])? == 0, "the server says something");
        Ok(())
    })
}

/// Microseconds that one takes of those that fit in the time.
fn each(time: Duration, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        for _ in 0..BATCH {
            once()?;
        }
        count += BATCH;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}
