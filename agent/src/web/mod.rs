//! `/metrics` for whoever may read it, and `/livez`, `/readyz` and `/healthz` on a
//! listener of their own for whoever probes the agent.
//!
//! The metrics listener is open to the node's pods, so it has a thread of its own
//! and shares nothing with passes but the page that it makes once a second.

mod admission;
mod connections;
mod page;
mod refused;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpSocket};

use crate::metrics::Snapshot;
use crate::state::Shared;
use page::Page;

pub use admission::Admission;
pub use connections::Bounds;
pub use refused::{Door, Reason, Refused};
pub use serve::{Accept, Admitting, serve};

/// Connections that wait in the kernel until they are accepted.
const BACKLOG: u32 = 1024;
/// Bytes that the kernel keeps of what a client sends, and of what it hasn't read
/// yet; the kernel doubles both for its own needs (`man 7 socket`).
const BUFFERS: (u32, u32) = (8 << 10, 64 << 10);

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
        // Connections inherit both.
        socket.set_recv_buffer_size(BUFFERS.0)?;
        socket.set_send_buffer_size(BUFFERS.1)?;
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
    let listener = listener.into_std().context("moving the metrics listener")?;
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()?;
        runtime.block_on(async move {
            let admission = Arc::clone(&shared.admission);
            let listener = Admitting {
                listener: TcpListener::from_std(listener)?,
                admit: move |peer| admission.admit(peer),
            };
            let refused = Arc::clone(&shared.metrics.refused);
            let router = metrics_router(shared);
            serve(Door::Metrics, listener, router, bounds, refused).await;
            std::io::Result::Ok(())
        })
    };
    let told = move || {
        if let Err(error) = run() {
            tracing::error!("the metrics page ended: {error}");
        }
    };
    let thread = std::thread::Builder::new().name("metrics".into());
    thread.spawn(told).context("starting the metrics thread")?;
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

fn metrics(made: page::Made) -> Response {
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
