//! `/metrics`, `/healthz`, `/readyz` and `/livez`, over TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::failure;
use crate::metrics::Snapshot;
use crate::state::Shared;

/// Takes the address, before anything else of the machine is touched.
pub async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!("--metrics-addr {addr}: can't listen there; give another, or `none`")
    })
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    if let Err(error) = axum::serve(listener, router(shared)).await {
        tracing::error!("the metrics page ended: {error}");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/livez", get(livez))
        .with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let page = tokio::task::spawn_blocking(move || {
        anyhow::Ok(shared.metrics.render(&Snapshot::take(&shared)?)?)
    })
    .await;
    match page {
        Ok(Ok(page)) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
        }
        Ok(Err(error)) => failed(&failure::one_line(&error)),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(error: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
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
