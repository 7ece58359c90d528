//! HTTP/1 on a listener of which clients can take only so much: connections, time
//! and bytes are bounded, and what exceeds a bound is closed and counted.
//!
//! A connection costs a task, a read buffer of 8 KiB and one file.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use super::connections::{Bounds, Connection, Connections, Room};
use super::refused::{Door, Reason, Refused};

/// Bytes of a request head; hyper takes no fewer.
const HEAD: usize = 8192;
/// Headers of a request.
const HEADERS: usize = 64;
/// After a failed accept: files or memory may be there again.
const RECOVER: Duration = Duration::from_secs(1);
/// A flood costs the closing of this many connections in each [`PACE`]; the others
/// wait in the kernel's queue, which is bounded too.
const CLOSED_PER_PACE: u32 = 20;
/// See [`CLOSED_PER_PACE`].
const PACE: Duration = Duration::from_millis(10);

/// Where connections come from.
pub trait Accept: Send + 'static {
    /// One connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection and its client, or why it is closed unserved. An error
    /// is one of the process or the machine.
    fn accept(
        &mut self,
    ) -> impl Future<Output = io::Result<Result<(Self::Io, IpAddr), Reason>>> + Send;
}

/// TCP connections from clients that a function admits.
#[derive(Debug)]
pub struct Admitting<F> {
    /// The listener.
    pub listener: TcpListener,
    /// Whether a peer is served.
    pub admit: F,
}

impl<F: Fn(IpAddr) -> Result<(), Reason> + Send + 'static> Accept for Admitting<F> {
    type Io = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<Result<(Self::Io, IpAddr), Reason>> {
        let (stream, peer) = self.listener.accept().await?;
        let client = peer.ip().to_canonical();
        Ok((self.admit)(client).map(|()| (stream, client)))
    }
}

/// Serves until the process ends.
pub async fn serve(
    door: Door,
    mut listener: impl Accept,
    router: Router,
    bounds: Bounds,
    refused: Arc<Refused>,
) {
    let mut connections = Connections::new(bounds);
    let mut pace = Pace::default();
    loop {
        let (io, client) = match listener.accept().await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(reason)) => {
                refused.note(door, reason);
                pace.keep().await;
                continue;
            }
            // The client has gone before it was accepted.
            Err(error) if is_of_the_client(&error) => continue,
            Err(_) => {
                refused.note(door, Reason::NoResources);
                sleep(RECOVER).await;
                continue;
            }
        };
        let room = connections.make_room(client);
        if room != Room::Free {
            refused.note(door, Reason::Full);
            // The task of the one that gave way lets go of its file meanwhile.
            pace.keep().await;
        }
        if room == Room::Taken {
            continue;
        }
        let answered = Arc::new(AtomicBool::new(false));
        let (flag, refused) = (Arc::clone(&answered), Arc::clone(&refused));
        let answer = answer(io, router.clone(), bounds, flag);
        let task = tokio::spawn(async move {
            if let Err(reason) = answer.await {
                refused.note(door, reason);
            }
        });
        let task = task.abort_handle();
        connections.add(client, Held { task, answered });
    }
}

/// One request and its answer.
async fn answer(
    io: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    bounds: Bounds,
    answered: Arc<AtomicBool>,
) -> Result<(), Reason> {
    let service = service_fn(|request: Request<Incoming>| {
        answered.store(true, Ordering::Relaxed);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        // A scrape every few seconds saves nothing by an open connection.
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    let connection = pin!(connection);
    let ended = match bounds.whole {
        Some(whole) => timeout(whole, connection).await.map_err(|_| Reason::Slow)?,
        None => connection.await,
    };
    match ended {
        Err(error) if error.is_timeout() => Err(Reason::Slow),
        Err(error) if error.is_parse() || error.is_parse_too_large() => Err(Reason::Malformed),
        // Answered, or the client has gone.
        _ => Ok(()),
    }
}

struct Held {
    task: AbortHandle,
    answered: Arc<AtomicBool>,
}

impl Connection for Held {
    fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.task.abort();
    }
}

/// Keeps a flood from taking a CPU.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    closed: u32,
}

impl Pace {
    /// After each connection that was closed. Other tasks run in any case.
    async fn keep(&mut self) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let spent = now.saturating_duration_since(since);
        if spent >= PACE {
            (self.since, self.closed) = (Some(now), 0);
        }
        self.closed += 1;
        if self.closed > CLOSED_PER_PACE {
            sleep(PACE.saturating_sub(spent)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    let kinds = [
        ConnectionAborted,
        ConnectionRefused,
        ConnectionReset,
        Interrupted,
    ];
    kinds.contains(&error.kind())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
