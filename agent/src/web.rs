//! `/metrics`, `/healthz` and `/readyz`, over TCP.

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

/// Whether the process does its work: a server that is away is no reason to be
/// started again.
async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    answer(shared.unhealthy())
}

/// Whether policy of this agent's own is in force.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    answer(shared.unready())
}

fn answer(fault: Option<String>) -> Response {
    match fault {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
