//! `/metrics` for authorized readers, and `/livez`, `/readyz` and `/healthz` on a separate listener
//! for probes. Also the code that all listeners share, and TLS for the API
//! ([`crate::api::remote`]).
//!
//! The metrics listener is open to the node's pods, so it has its own thread and shares nothing
//! with passes except the page, which is rendered at most once a second.

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

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// Bytes that the kernel buffers of a client's requests, and of answers that the client hasn't read
/// yet; the kernel doubles both for its own needs (`man 7 socket`).
const BUFFERS: (u32, u32) = (8 << 10, 64 << 10);
/// Seconds after which the kernel probes a silent client, the number of probes, and the seconds
/// between them: a vanished client is gone after 90 s.
const KEEPALIVE: (u32, u32, u32) = (60, 3, 10);

/// Limits for scrapers.
pub const METRICS: Bounds = Bounds {
    total: 64,
    per_client: 8,
    head: Duration::from_secs(5),
    whole: Some(Duration::from_secs(10)),
    answered_give_way: true,
};

/// Limits for probes.
pub const HEALTH: Bounds = Bounds {
    total: 16,
    per_client: 16,
    head: Duration::from_secs(2),
    whole: Some(Duration::from_secs(5)),
    answered_give_way: true,
};

/// Binds an address, before anything else of the machine is touched; `flag` is the flag that
/// specified it.
pub fn bind(flag: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // Connections of an agent that has just ended may linger.
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
    listen().with_context(|| format!("{flag} {addr}: can't listen there; use another, or `none`"))
}

/// Serves metrics on a dedicated thread until the process ends.
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

/// Serves a listener on a dedicated thread until the process ends, so that a flood of connections
/// delays no pass. Blocking work there runs one at a time.
pub fn on_own_thread(
    name: &'static str,
    listener: TcpListener,
    serve: impl AsyncFnOnce(TcpListener) + Send + 'static,
) -> anyhow::Result<()> {
    let listener = listener.into_std();
    let listener = listener.with_context(|| format!("moving the {name} listener"))?;
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
            tracing::error!("the {name} listener ended: {error}");
        }
    };
    let thread = std::thread::Builder::new().name(name.into());
    let started = thread.spawn(told);
    started.with_context(|| format!("starting the {name} thread"))?;
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

/// Includes the probes' pages, for clients that request them on the metrics listener.
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

/// Reports whether the agent is healthy.
async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    health(shared.unhealthy())
}

/// Reports whether this agent's own policy is in force, which a rollout waits for.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    health(shared.unready())
}

/// Reports whether the process works at all, healthy or not. If it doesn't, it should be restarted;
/// a restart doesn't help if a server is unavailable.
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
    use crate::testing::{FakeDataplane, shared};

    #[test]
    fn an_agent_that_waits_or_fails_is_alive_but_not_ready() {
        let shared = shared(&FakeDataplane::default());
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
