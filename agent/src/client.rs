//! The command line's end of the agent's socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Why the agent couldn't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}: {source}; is `ringfence agent` running, and are you root?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("asking the agent for {what}: {source}")]
    Http {
        /// The path asked for.
        what: String,
        /// Why.
        source: hyper::Error,
    },
    /// The request couldn't be written.
    #[error("asking the agent for {what}: {source}")]
    Request {
        /// The path asked for.
        what: String,
        /// Why.
        source: http::Error,
    },
    /// The agent says no.
    #[error("the agent could not answer {what}: {message}")]
    Refused {
        /// The path asked for.
        what: String,
        /// What it says.
        message: String,
    },
    /// An answer of another version.
    #[error("the agent's answer to {what} isn't understood ({source}); is it of this version?")]
    Answer {
        /// The path asked for.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Asks the agent for one JSON value.
pub async fn get<T: DeserializeOwned>(socket: &Path, what: &str) -> Result<T, ClientError> {
    let response = request(socket, what).await?;
    let status = response.status();
    let body = response.into_body().collect().await;
    let body = body
        .map_err(|source| ClientError::Http {
            what: what.into(),
            source,
        })?
        .to_bytes();
    if status != StatusCode::OK {
        return Err(refused(what, status, &body));
    }
    serde_json::from_slice(&body).map_err(|source| ClientError::Answer {
        what: what.into(),
        source,
    })
}

/// Hands over each line of an endless answer, until it ends or `line` fails.
pub async fn follow(
    socket: &Path,
    what: &str,
    mut line: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut body = request(socket, what).await?.into_body();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Http {
            what: what.into(),
            source,
        })?;
        rest.extend(frame.data_ref().into_iter().flatten());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line(&rest[..end])?;
            rest.drain(..=end);
        }
    }
    Ok(())
}

async fn request(socket: &Path, what: &str) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        })?;
    let failed = |source| ClientError::Http {
        what: what.into(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Its errors reach us through the response.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(what)
        .header("host", "ringfence")
        .body(Empty::<Bytes>::new())
        .map_err(|source| ClientError::Request {
            what: what.into(),
            source,
        })?;
    sender.send_request(request).await.map_err(failed)
}

fn refused(what: &str, status: StatusCode, body: &[u8]) -> ClientError {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| Some(value.get("error")?.as_str()?.to_owned()))
        .unwrap_or_else(|| status.to_string());
    ClientError::Refused {
        what: what.into(),
        message,
    }
}
