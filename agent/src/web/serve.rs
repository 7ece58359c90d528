//! HTTP/1 on a listener with limits for its clients: connections, time and bytes are bounded, and
//! what exceeds a bound is closed and counted.
//!
//! A connection costs a task, a read buffer of 8 KiB and one file. Whatever a client can delay,
//! including a TLS handshake, is awaited in its own connection's task.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant as TokioInstant, sleep, timeout};
use tower::ServiceExt as _;

use super::connections::{Bounds, Connection, Connections, Vacancy};
use super::refused::{Door, Reason, Refused};

/// Limit of a request head in bytes; hyper accepts no smaller one.
const HEAD: usize = 8192;
/// Limit of headers per request.
const HEADERS: usize = 64;
/// Wait after a failed accept, until files or memory may be available again.
const RECOVER: Duration = Duration::from_secs(1);
/// A flood causes at most this many closings per [`PACE`]; the other connections wait in the
/// kernel's queue, which is bounded, too.
const CLOSED_PER_PACE: u32 = 20;
/// See [`CLOSED_PER_PACE`].
const PACE: Duration = Duration::from_millis(10);
/// Interval between two checks whether the client of an endless response may still be served.
const LOOK: Duration = Duration::from_secs(2);

/// A source of connections.
pub trait Accept: Send + 'static {
    /// One connection.
    type Incoming: Incoming;

    /// Returns the next connection and its client, or why it is closed unserved. An error concerns
    /// the process or the machine.
    fn accept(
        &mut self,
    ) -> impl Future<Output = io::Result<Result<(Self::Incoming, IpAddr), Reason>>> + Send;
}

/// A connection that has been accepted.
pub trait Incoming: Send + 'static {
    /// The stream that carries HTTP.
    type Io: AsyncRead + AsyncWrite + Send + Unpin;

    /// Prepares the connection for HTTP, in its own task and within [`Bounds::head`].
    fn open(self) -> impl Future<Output = Result<(Self::Io, Stay), Reason>> + Send;
}

/// Checks whether the client of an endless response may still be served.
pub type Stay = Box<dyn Fn() -> Result<(), Reason> + Send>;

impl Incoming for TcpStream {
    type Io = Self;

    async fn open(self) -> Result<(Self, Stay), Reason> {
        Ok((self, Box::new(|| Ok(()))))
    }
}

impl Incoming for UnixStream {
    type Io = Self;

    async fn open(self) -> Result<(Self, Stay), Reason> {
        Ok((self, Box::new(|| Ok(()))))
    }
}

/// The client of a request, as an extension of each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client(pub IpAddr);

/// An extension that marks responses that may outlast [`Bounds::whole`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GoesOn;

/// TCP connections from clients that a function admits.
#[derive(Debug)]
pub struct Admitting<F> {
    /// The listener.
    pub listener: TcpListener,
    /// Decides whether a peer is served.
    pub admit: F,
}

impl<F: Fn(IpAddr) -> Result<(), Reason> + Send + 'static> Accept for Admitting<F> {
    type Incoming = TcpStream;

    async fn accept(&mut self) -> io::Result<Result<(TcpStream, IpAddr), Reason>> {
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
        let (incoming, client) = match listener.accept().await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(reason)) => {
                refused.note(door, reason);
                pace.keep().await;
                continue;
            }
            // The client disconnected before it was accepted.
            Err(error) if is_of_the_client(&error) => continue,
            Err(_) => {
                refused.note(door, Reason::NoResources);
                sleep(RECOVER).await;
                continue;
            }
        };
        let vacancy = connections.make_room(client);
        if vacancy != Vacancy::Free {
            refused.note(door, Reason::Full);
            // Meanwhile, the task of the closed connection releases its file.
            pace.keep().await;
        }
        if vacancy == Vacancy::Taken {
            continue;
        }
        let progress = Arc::new(Progress::default());
        let (noted, refused) = (Arc::clone(&progress), Arc::clone(&refused));
        let answer = answer(incoming, Client(client), router.clone(), bounds, noted);
        let task = tokio::spawn(async move {
            if let Err(reason) = answer.await {
                refused.note(door, reason);
            }
        });
        let task = task.abort_handle();
        connections.add(client, Held { task, progress });
    }
}

/// The progress of a connection.
#[derive(Default)]
struct Progress {
    /// Whether its request has been received.
    answered: AtomicBool,
    /// Whether its response is endless.
    goes_on: AtomicBool,
}

/// Serves one request.
async fn answer(
    incoming: impl Incoming,
    client: Client,
    router: Router,
    bounds: Bounds,
    progress: Arc<Progress>,
) -> Result<(), Reason> {
    let since = TokioInstant::now();
    let opened = timeout(bounds.head, incoming.open()).await;
    let (io, stay) = opened.map_err(|_| Reason::Slow)??;
    let service = service_fn(|mut request: Request<Body>| {
        progress.answered.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(client);
        respond(router.clone(), request, Arc::clone(&progress))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head.saturating_sub(since.elapsed()))
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        // An open connection would save nothing for a scrape every few seconds.
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    let connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection => ended,
        reason = time_is_over(bounds.whole, since, &progress, stay) => return Err(reason),
    };
    match ended {
        Err(error) if error.is_timeout() => Err(Reason::Slow),
        Err(error) if error.is_parse() || error.is_parse_too_large() => Err(Reason::Malformed),
        // Answered, or the client has disconnected.
        _ => Ok(()),
    }
}

async fn respond(
    router: Router,
    request: Request<Body>,
    progress: Arc<Progress>,
) -> Result<Response, Infallible> {
    let response = router.oneshot(request).await?;
    let goes_on = response.extensions().get::<GoesOn>().is_some();
    progress.goes_on.store(goes_on, Ordering::Relaxed);
    Ok(response)
}

/// Returns when a connection has to end, and why: at its time limit, or for an endless response
/// when its client may no longer be served.
async fn time_is_over(
    whole: Option<Duration>,
    since: TokioInstant,
    progress: &Progress,
    stay: Stay,
) -> Reason {
    let Some(whole) = whole else {
        return pending().await;
    };
    loop {
        let left = whole.saturating_sub(since.elapsed());
        sleep(if left.is_zero() { LOOK } else { left.min(LOOK) }).await;
        let judged = if progress.goes_on.load(Ordering::Relaxed) {
            stay()
        } else if since.elapsed() >= whole {
            Err(Reason::Slow)
        } else {
            Ok(())
        };
        if let Err(reason) = judged {
            return reason;
        }
    }
}

struct Held {
    task: AbortHandle,
    progress: Arc<Progress>,
}

impl Connection for Held {
    fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    fn is_answered(&self) -> bool {
        self.progress.answered.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.task.abort();
    }
}

/// Keeps a flood from occupying a CPU.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    closed: u32,
}

impl Pace {
    /// Called after each closed connection. Lets other tasks run in any case.
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
