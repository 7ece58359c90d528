//! What the socket has for reading, for programs on other machines: over TLS, for
//! clients that show a certificate of the right authority, and for nobody else.
//!
//! It makes no pass and changes nothing: `/v1/wait` and `/v1/bound` aren't there. Its
//! thread is its own, and each list is made once a second at most, one list at a time,
//! so that no number of clients holds up passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use prometheus::{IntCounter, IntGauge, Registry};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::followers::Followers;
use super::{READ, Shares, event_lines, failed, faulty, whole};
use crate::state::Shared;
use crate::web::{
    self, Admitting, Bounds, Certificates, Client, Door, GoesOn, Health, Page, TlsListener,
};

/// What programs may hold. An answer isn't cut off for a newcomer's sake; those that
/// have no end ([`GoesOn`]) are fewer than this.
pub const BOUNDS: Bounds = Bounds {
    total: 64,
    per_client: 16,
    head: Duration::from_secs(5),
    whole: Some(Duration::from_secs(10)),
    answered_give_way: false,
};

/// Where it listens, and with which certificates.
#[derive(Clone)]
pub struct Remote {
    /// `--api-addr`.
    pub address: SocketAddr,
    /// The agent's own, and whose it takes.
    pub certificates: Arc<Certificates>,
}

/// How it is doing, in the agent's status.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RemoteStatus {
    /// Address and port.
    pub address: String,
    /// When the certificate in force expires, in seconds since 1970.
    pub certificate_expires: i64,
    /// Why the files as they are now can't be used; none if they are in force.
    #[serde(default)]
    pub certificate_error: Option<String>,
    /// How often they couldn't be used since the start.
    #[serde(default)]
    pub certificate_errors: u64,
}

impl Remote {
    /// How it is doing.
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

impl RemoteStatus {
    /// Adds its metrics to a page.
    ///
    /// # Errors
    /// Only if a name is given twice.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let gauges = [
            (
                "ringfence_api_certificate_expiry_timestamp_seconds",
                "When the certificate of the read-only API expires, in seconds since 1970.",
                self.certificate_expires,
            ),
            (
                "ringfence_api_certificate_stale",
                "1 if the files of the read-only API's certificate can't be used, so that older \
                 ones are in force.",
                self.certificate_error.is_some().into(),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(value);
            registry.register(Box::new(gauge))?;
        }
        let errors = IntCounter::new(
            "ringfence_api_certificate_reload_errors_total",
            "Times that changed files of the read-only API's certificate couldn't be used.",
        )?;
        errors.inc_by(self.certificate_errors);
        registry.register(Box::new(errors))
    }
}

/// Serves until the process ends, on a thread of its own.
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
            let why = "too many follow events already; let one of them go";
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
