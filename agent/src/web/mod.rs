//! `/metrics` for whoever may read it, and `/livez`, `/readyz` and `/healthz` on a
//! listener of their own for whoever probes the agent. Beside that what listeners have
//! in common, and TLS for the one that has it ([`crate::api::remote`]).
//!
//! The metrics listener is open to the node's pods, so it has a thread of its own
//! and shares nothing with passes but the page that it makes once a second.

mod admission;
mod certificates;
mod connections;
mod identity;
#[cfg(test)]
pub(crate) mod issued;
mod page;
mod rate;
mod refused;
mod serve;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

use crate::metrics::Snapshot;
use crate::state::Shared;
pub(crate) use page::{Made, Page};

pub use admission::Admission;
pub use certificates::{CertificateError, CertificateFiles, Certificates, Health};
pub use connections::Bounds;
pub use refused::{Door, Reason, Refused};
pub use serve::{Accept, Admitting, Client, GoesOn, Incoming, Stay, serve};
pub use tls::{Handshake, TlsListener};

/// Connections that wait in the kernel until they are accepted.
const BACKLOG: u32 = 1024;
/// Bytes that the kernel keeps of what a client sends, and of what it hasn't read
/// yet; the kernel doubles both for its own needs (`man 7 socket`).
const BUFFERS: (u32, u32) = (8 << 10, 64 << 10);
/// Seconds after which the kernel asks a silent client whether it is still there, how
/// often, and how far apart: one that has vanished is gone after 90 s.
const KEEPALIVE: (u32, u32, u32) = (60, 3, 10);

/// What scrapers may hold.
pub const METRICS: Bounds = Bounds {
    total: 64,
    per_client: 8,
    head: Duration::from_secs(5),
    whole: Some(Duration::from_secs(10)),
    answered_give_way: true,
};

/// What probes may hold.
pub const HEALTH: Bounds = Bounds {
    total: 16,
    per_client: 16,
    head: Duration::from_secs(2),
    whole: Some(Duration::from_secs(5)),
    answered_give_way: true,
};

/// Takes an address, before anything else of the machine is touched; `flag` is the
/// one that gave it.
pub fn bind(flag: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // Where an agent has just ended, its last connections may linger.
        socket.set_reuseaddr(true)?;
        // Connections inherit all of these.
        socket.set_recv_buffer_size(BUFFERS.0)?;
        socket.set_send_buffer_size(BUFFERS.1)?;
        socket.set_keepalive(true)?;
        setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE.0)?;
        setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE.1)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE.2)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("{flag} {addr}: can't listen there; give another, or `none`"))
}

/// Serves metrics until the process ends, on a thread of its own.
pub fn serve_metrics(
    listener: TcpListener,
    shared: Arc<Shared>,
    bounds: Bounds,
) -> anyhow::Result<()> {
    on_own_thread("metrics", listener, async move |listener| {
        let admission = Arc::clone(&shared.admission);
        let listener = Admitting {
            listener,
            admit: move |peer| admission.admit(peer),
        };
        let refused = Arc::clone(&shared.metrics.refused);
        let router = metrics_router(shared);
        serve(Door::Metrics, listener, router, bounds, refused).await;
    })
}

/// Has a listener served until the process ends on a thread that does nothing else, so
/// that a flood of it holds up no pass. What blocks there happens one at a time.
pub fn on_own_thread(
    name: &'static str,
    listener: TcpListener,
    serve: impl AsyncFnOnce(TcpListener) + Send + 'static,
) -> anyhow::Result<()> {
    let listener = listener.into_std();
    let listener = listener.with_context(|| format!("moving the listener of the {name}"))?;
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()?;
        runtime.block_on(async move {
            serve(TcpListener::from_std(listener)?).await;
            std::io::Result::Ok(())
        })
    };
    let told = move || {
        if let Err(error) = run() {
            tracing::error!("the listener of the {name} ended: {error}");
        }
    };
    let thread = std::thread::Builder::new().name(name.into());
    let started = thread.spawn(told);
    started.with_context(|| format!("starting the thread of the {name}"))?;
    Ok(())
}

/// Answers probes until the process ends.
pub async fn serve_health(listener: TcpListener, shared: Arc<Shared>, bounds: Bounds) {
    let admission = Arc::clone(&shared.admission);
    let listener = Admitting {
        listener,
        admit: move |peer| admission.admit_probe(peer),
    };
    let refused = Arc::clone(&shared.metrics.refused);
    let router = health_router().with_state(shared);
    serve(Door::Health, listener, router, bounds, refused).await;
}

fn health_router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/livez", get(livez))
}

/// With the probes' pages, for whoever asks for them where they used to be.
fn metrics_router(shared: Arc<Shared>) -> Router {
    let of = Arc::clone(&shared);
    let page = Page::new(move || Ok(of.metrics.render(&Snapshot::take(&of)?)?));
    let scraped = Arc::clone(&shared);
    let metrics = async move || {
        let made = Arc::clone(&page).get().await;
        if made.is_ok() {
            scraped.scraped();
        }
        metrics(made)
    };
    health_router()
        .route("/metrics", get(metrics))
        .with_state(shared)
}

fn metrics(made: Made) -> Response {
    match made {
        Ok(page) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Whether all is well.
async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    health(shared.unhealthy())
}

/// Whether policy of this agent's own is in force: a rollout waits for it.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    health(shared.unready())
}

/// Whether the process does its work, well or not: otherwise it is to be started
/// again, which is no help where a server is away.
async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    health(shared.stuck())
}

fn health(complaint: Option<String>) -> Response {
    match complaint {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeKernel, shared};

    #[test]
    fn an_agent_that_waits_or_fails_is_alive_but_not_ready() {
        let shared = shared(&FakeKernel::default());
        let codes = || {
            let complaints = [shared.stuck(), shared.unhealthy(), shared.unready()];
            complaints.map(|why| health(why).status())
        };
        let (ok, bad) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(codes(), [ok, bad, bad], "before the first pass");
        let mut status = shared.status();
        status.waits_for = vec!["Pod".into()];
        shared.set_status(status.clone());
        assert_eq!(codes(), [ok, ok, bad], "while the API server is away");
        status.waits_for.clear();
        shared.set_status(status.clone());
        assert_eq!(codes(), [ok, ok, ok]);
        status.error = Some("map RULES is full".into());
        shared.set_status(status);
        assert_eq!(codes(), [ok, bad, bad], "after a pass that failed");
    }
}
