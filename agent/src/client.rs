//! The command line's end of the agent's socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringfence_api::Fault;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error("no agent answers on {}: {source}; is `ringfence agent` running, and are you root?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The connection failed.
    #[error("asking the agent for {what}: {source}")]
    Http {
        /// The requested path.
        what: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The request couldn't be built.
    #[error("asking the agent for {what}: {source}")]
    Request {
        /// The requested path.
        what: String,
        /// The cause.
        source: http::Error,
    },
    /// The agent returned an error.
    #[error("the agent could not answer {what}: {message}")]
    Refused {
        /// The requested path.
        what: String,
        /// The agent's message.
        message: String,
    },
    /// The answer doesn't parse, as that of another version.
    #[error("can't parse the agent's answer to {what} ({source}); is the agent of this version?")]
    Answer {
        /// The requested path.
        what: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// Requests one JSON value from the agent.
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

/// Passes each line of an endless answer to `line`, until the answer ends or `line` fails.
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
    // Errors of the connection reach us through the response.
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
    let fault = serde_json::from_slice::<Fault>(body);
    let message = fault.map_or_else(|_| status.to_string(), |fault| fault.error);
    ClientError::Refused {
        what: what.into(),
        message,
    }
}
