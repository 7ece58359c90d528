//! The agent's Unix socket: HTTP with JSON, for root only. Its read-only paths are also served to
//! programs, by [`remote`].
//!
//! | path | answers |
//! |---|---|
//! | `/v1/status` | [`Status`](ringfence_api::Status) |
//! | `/v1/endpoints`, `/v1/drops`, `/v1/connections` | lists of [`Endpoint`], [`DropSeries`] and [`Connection`] |
//! | `/v1/wait?pod=ns/name&milliseconds=N` | [`InForce`](ringfence_api::InForce), once it is in force or the time is over |
//! | `/v1/policy?policy=ns/name&version=V&milliseconds=N` | [`PolicyInForce`](ringfence_api::PolicyInForce), likewise |
//! | `/v1/bound?pod=ns/name&device=INDEX&milliseconds=N` | [`Bound`](ringfence_api::Bound), once the pod's policy is in force on its device or the time is over |
//! | `/v1/events` | one [`EventLine`](ringfence_api::EventLine) per line, until the caller disconnects |

mod bound;
mod followers;
pub mod remote;
mod rows;
mod wait;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream::unfold;
use ringfence_api::{Connection, DropSeries, Endpoint, Fault, Lost};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;

pub(crate) use rows::event;

use crate::failure;
use crate::state::Shared;
use crate::web::{self, Accept, Bounds, Door, Reason};

/// Limits for all callers together. A response may last as long as its caller follows events.
pub const BOUNDS: Bounds = Bounds {
    total: 64,
    per_client: 64,
    head: Duration::from_secs(5),
    whole: None,
    answered_give_way: false,
};

/// Why the socket can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Two agents on one socket would share one set of maps.
    #[error("another agent answers on {}; stop it, or use a different --socket and --pin-dir", .0.display())]
    Taken(PathBuf),
    /// Another kind of file exists at the path.
    #[error("{} exists and is not a socket; use another --socket", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("{operation} {}: {source}; run as root, or use another --socket", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Fails if an agent answers on the socket. Call this before the datapath is opened; undetermined
/// cases are left for [`bind`] to report.
pub fn refuse_second_agent(path: &Path) -> Result<(), SocketError> {
    match StdUnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        Err(_) => Ok(()),
    }
}

/// Removes the file of a socket on which nobody answers, left by an agent that was killed.
///
/// # Errors
/// If it can't be removed. A missing file is fine, and a file of another kind is left alone.
pub fn remove_left_socket(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    fs::remove_file(path).map_err(|source| SocketError::Io {
        operation: "removing",
        path: path.to_owned(),
        source,
    })
}

/// The socket's file: removed on drop, if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Listens on the socket, and replaces a stale one that nobody answers on.
pub fn bind(path: &Path) -> Result<(RootListener, SocketFile), SocketError> {
    let failed = |operation, source| SocketError::Io {
        operation,
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed("creating the folder of", error))?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            refuse_second_agent(path)?;
            fs::remove_file(path).map_err(|error| failed("removing the stale socket", error))?;
        }
        Ok(_) => return Err(SocketError::NotASocket(path.to_owned())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| failed("listening on", error))?;
    // A client that connects before this is still rejected by its credentials.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|error| failed("setting the mode of", error))?;
    let inode = inode(path).map_err(|error| failed("inspecting", error))?;
    Ok((
        RootListener(listener),
        SocketFile {
            path: path.to_owned(),
            inode,
        },
    ))
}

/// A listener that accepts only root and the agent's own user.
#[derive(Debug)]
pub struct RootListener(UnixListener);

impl Accept for RootListener {
    type Incoming = UnixStream;

    async fn accept(&mut self) -> io::Result<Result<(UnixStream, IpAddr), Reason>> {
        let (stream, _) = self.0.accept().await?;
        let peer = stream.peer_cred();
        if peer.is_ok_and(|peer| may_connect(peer.uid())) {
            // All callers count as one client: this machine's root.
            Ok(Ok((stream, Ipv4Addr::LOCALHOST.into())))
        } else {
            Ok(Err(Reason::NotRoot))
        }
    }
}

fn may_connect(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// Serves until the process ends.
pub async fn serve(listener: RootListener, shared: Arc<Shared>, bounds: Bounds) {
    let refused = Arc::clone(&shared.metrics.refused);
    web::serve(Door::Socket, listener, router(shared), bounds, refused).await;
}

/// A reader that returns one JSON value.
type Read = fn(&Shared) -> anyhow::Result<Vec<u8>>;

/// The readers by path, for the socket and for [`remote`]. Each blocks briefly.
const READ: [(&str, Read); 4] = [
    ("/v1/status", |shared| json(&shared.status())),
    ("/v1/endpoints", |shared| {
        let endpoints = shared.dataplane().endpoints();
        let rows: Vec<Endpoint> = endpoints.into_iter().map(rows::endpoint).collect();
        json(&rows)
    }),
    ("/v1/drops", |shared| {
        let series = shared.counters.drops()?;
        let rows: Vec<DropSeries> = series.into_iter().map(rows::drops).collect();
        json(&rows)
    }),
    ("/v1/connections", |shared| {
        let connections = shared.dataplane().connections()?;
        let rows: Vec<Connection> = connections.into_iter().map(rows::connection).collect();
        json(&rows)
    }),
];

fn json(value: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/v1/wait", get(wait::pod))
        .route("/v1/policy", get(wait::policy))
        .route("/v1/bound", get(bound::answer))
        .route("/v1/events", get(events));
    for (path, read) in READ {
        let answer =
            async move |State(shared): Shares| match tokio::task::spawn_blocking(move || {
                read(&shared)
            })
            .await
            {
                Ok(Ok(value)) => whole(value),
                Ok(Err(error)) => faulty(&failure::one_line(&error)),
                Err(error) => faulty(&error.to_string()),
            };
        router = router.route(path, get(answer));
    }
    router.with_state(shared)
}

type Shares = State<Arc<Shared>>;

/// Returns a response with a JSON value.
fn whole(value: impl Into<Body>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, value.into()).into_response()
}

fn faulty(error: &str) -> Response {
    failed(StatusCode::INTERNAL_SERVER_ERROR, error)
}

fn failed(status: StatusCode, error: &str) -> Response {
    let fault = Fault {
        error: error.to_owned(),
    };
    (status, Json(fault)).into_response()
}

async fn events(State(shared): Shares) -> Response {
    event_lines(&shared, ())
}

/// Streams each event as a line, without end; `kept` is dropped when the caller disconnects.
fn event_lines(shared: &Shared, kept: impl Send + 'static) -> Response {
    let followed = (shared.events.subscribe(), kept);
    let lines = unfold(followed, async |(mut followed, kept)| {
        let line = match followed.recv().await {
            Ok(event) => format!("{event}\n"),
            // A caller that reads too slowly is told how many it lost, and stays connected.
            Err(RecvError::Lagged(lost)) => lost_line(lost),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, Infallible>(line), (followed, kept)))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

fn lost_line(lost: u64) -> String {
    // A number always serializes.
    let line = serde_json::to_string(&Lost { lost }).unwrap_or_default();
    format!("{line}\n")
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
