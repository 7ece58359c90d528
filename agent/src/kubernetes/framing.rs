//! Inspects responses as they arrive: to track a watch's health, and to check that its events are
//! complete.
//!
//! The client takes a line with truncated or missing JSON for the end of the stream, skips it and
//! reads on, so the event would be lost for good. Here such a line breaks the watch, which then
//! resumes from before it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::time::timeout;
use tower::{BoxError, Layer, Service};

use super::health::Health;

/// How long a server may take to start its answer; its own limit is 60 s.
const ANSWER: Duration = Duration::from_secs(75);

/// Wraps a client in a [`Witness`].
#[derive(Clone, Debug)]
pub struct Witnessed(pub Arc<Health>);

impl<S> Layer<S> for Witnessed {
    type Service = Witness<S>;

    fn layer(&self, inner: S) -> Witness<S> {
        Witness {
            inner,
            health: Arc::clone(&self.0),
        }
    }
}

/// Reports every answer to one watch's health.
#[derive(Debug)]
pub struct Witness<S> {
    inner: S,
    health: Arc<Health>,
}

type Answering<B> = Pin<Box<dyn Future<Output = Result<Response<Framed<B>>, BoxError>> + Send>>;

impl<S, Q, B> Service<Request<Q>> for Witness<S>
where
    S: Service<Request<Q>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Framed<B>>;
    type Error = BoxError;
    type Future = Answering<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Answering<B> {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|pair| pair == "watch=true");
        let health = Arc::clone(&self.health);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = timeout(ANSWER, answer).await.map_err(|_| {
                BoxError::from(format!("no answer within {} s", ANSWER.as_secs()))
            })??;
            health.answered(answer.status(), answer.headers());
            // The body of a refusal is a single text of any format.
            let is_watch = is_watch && answer.status().is_success();
            Ok(answer.map(|body| Framed {
                body: Box::pin(body),
                scan: is_watch.then(Scan::default),
                health,
                is_over: false,
            }))
        })
    }
}

/// A body that is inspected as it passes.
pub struct Framed<B> {
    body: Pin<Box<B>>,
    /// Present for the body of a watch.
    scan: Option<Scan>,
    health: Arc<Health>,
    is_over: bool,
}

impl<B> Body for Framed<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = this.body.as_mut().poll_frame(cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            None => {
                this.is_over = true;
                None
            }
            Some(Err(error)) => {
                this.is_over = true;
                let error = error.into();
                this.health
                    .failed(&format!("the connection broke: {error}"));
                Some(Err(error))
            }
            Some(Ok(frame)) => {
                this.health.heard();
                let data = frame.data_ref();
                let whole = match (&mut this.scan, data) {
                    (Some(scan), Some(data)) => scan.is_whole(data),
                    _ => true,
                };
                this.is_over = !whole;
                Some(match whole {
                    true => Ok(frame),
                    false => Err("an event was truncated".into()),
                })
            }
        })
    }
}

impl<B> Drop for Framed<B> {
    /// Reports a watch that the watcher gave up because no data arrived.
    fn drop(&mut self) {
        if self.scan.is_some() && !self.is_over {
            self.health.let_go();
        }
    }
}

/// Tracks the braces of JSON lines, just enough to detect a line that ends too early.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    /// Whether the line has started with a brace.
    begun: bool,
    depth: u32,
    in_string: bool,
    is_escaped: bool,
}

impl Scan {
    /// Reports whether every line that ends in these bytes is a complete object.
    fn is_whole(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| self.step(*byte))
    }

    fn step(&mut self, byte: u8) -> bool {
        // A JSON string never contains a raw newline, not even after a backslash.
        if byte == b'\n' && self.begun {
            let is_whole = !self.in_string && self.depth == 0;
            *self = Self::default();
            return is_whole;
        }
        if self.is_escaped {
            self.is_escaped = false;
            return true;
        }
        if !self.begun {
            self.begun = byte == b'{';
            self.depth = 1;
            return self.begun;
        }
        match (byte, self.in_string) {
            (b'\\', true) => self.is_escaped = true,
            (b'"', in_string) => self.in_string = !in_string,
            (b'{' | b'[', false) => self.depth += 1,
            (b'}' | b']', false) => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_object_is_not_whole() {
        for line in ["", " ", "tru", "\"", "[", "}{"] {
            let line = format!("{line}\n");
            assert!(!Scan::default().is_whole(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn a_line_that_ends_inside_its_json_is_not_whole_wherever_chunks_are_cut() {
        let whole = r#"{"type":"ADDED","object":{"a":"}\"{\\","b":[1,{}]}}"#;
        for cut in 0..whole.len() {
            let (head, tail) = whole.split_at(cut);
            let mut scan = Scan::default();
            assert!(scan.is_whole(head.as_bytes()));
            assert!(scan.is_whole(tail.as_bytes()));
            assert!(scan.is_whole(b"\n{}\n"), "cut at {cut}");
            let mut scan = Scan::default();
            assert!(!scan.is_whole(format!("{head}\n").as_bytes()), "{head}");
        }
    }
}
