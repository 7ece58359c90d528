//! The socket's read-only paths, for programs on other machines: over TLS, only for clients that
//! present a certificate from the right authority.
//!
//! It starts no pass and changes nothing: `/v1/wait` and `/v1/bound` aren't served. It has its own
//! thread, and computes each list at most once a second and one list at a time, so that no number
//! of clients delays passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use prometheus::{IntCounter, IntGauge, Registry};
use ringfence_api::RemoteStatus;
use tokio::net::TcpListener;

use super::followers::Followers;
use super::{READ, Shares, event_lines, failed, faulty, whole};
use crate::state::Shared;
use crate::web::{
    self, Admitting, Bounds, Certificates, Client, Door, GoesOn, Health, Page, TlsListener,
};

/// Limits for programs. A response isn't cut off to make way for a new client; endless responses
/// ([`GoesOn`]) have a lower limit than this.
pub const BOUNDS: Bounds = Bounds {
    total: 64,
    per_client: 16,
    head: Duration::from_secs(5),
    whole: Some(Duration::from_secs(10)),
    answered_give_way: false,
};

/// Where the API listens, and with which certificates.
#[derive(Clone)]
pub struct Remote {
    /// `--api-addr`.
    pub address: SocketAddr,
    /// The agent's own certificate, and the authorities of clients.
    pub certificates: Arc<Certificates>,
}

impl Remote {
    /// Returns the state of the API.
    pub fn status(&self) -> RemoteStatus {
        let Health {
            expires,
            error,
            errors,
        } = self.certificates.health();
        RemoteStatus {
            address: self.address.to_string(),
            certificate_expires: expires,
            certificate_error: error,
            certificate_errors: errors,
        }
    }
}

/// Adds the metrics to a page.
///
/// # Errors
/// Only if a name is given twice.
pub fn register(status: &RemoteStatus, registry: &Registry) -> prometheus::Result<()> {
    let gauges = [
        (
            "ringfence_api_certificate_expiry_timestamp_seconds",
            "When the certificate of the read-only API expires, in seconds since 1970.",
            status.certificate_expires,
        ),
        (
            "ringfence_api_certificate_stale",
            "1 if the read-only API's certificate files can't be used and older ones are \
             in force.",
            status.certificate_error.is_some().into(),
        ),
    ];
    for (name, help, value) in gauges {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))?;
    }
    let errors = IntCounter::new(
        "ringfence_api_certificate_reload_errors_total",
        "Number of times the read-only API's changed certificate files couldn't be used.",
    )?;
    errors.inc_by(status.certificate_errors);
    registry.register(Box::new(errors))
}

/// Serves on a dedicated thread until the process ends.
///
/// # Errors
/// If the thread can't be started.
pub fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    certificates: Arc<Certificates>,
    bounds: Bounds,
) -> anyhow::Result<()> {
    web::on_own_thread("api", listener, async move |listener| {
        tokio::spawn(Arc::clone(&certificates).watch());
        let admission = Arc::clone(&shared.admission);
        let admitted = Arc::clone(&admission);
        let inner = Admitting {
            listener,
            admit: move |peer| admission.admit_probe(peer),
        };
        let listener = TlsListener::new(inner, admitted, certificates);
        let refused = Arc::clone(&shared.metrics.refused);
        web::serve(Door::Api, listener, router(shared), bounds, refused).await;
    })
}

fn router(shared: Arc<Shared>) -> Router {
    let followers = Arc::new(Followers::default());
    let follow = async move |State(shared): Shares,
                             Extension(Client(client)): Extension<Client>| {
        let Some(follower) = followers.join(client) else {
            let why = "too many clients follow events already; close one of them";
            return failed(StatusCode::TOO_MANY_REQUESTS, why);
        };
        let mut response = event_lines(&shared, follower);
        response.extensions_mut().insert(GoesOn);
        response
    };
    let mut router = Router::new().route("/v1/events", get(follow));
    for (path, read) in READ {
        let of = Arc::clone(&shared);
        let page = Page::new(move || read(&of));
        let answer = async move || list(Arc::clone(&page).get().await);
        router = router.route(path, get(answer));
    }
    router.with_state(shared)
}

fn list(made: web::Made) -> Response {
    match made {
        Ok(page) => whole(page),
        Err(error) => faulty(&error),
    }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
