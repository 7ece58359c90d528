//! Lists: whole or page by page, of one moment, sent as they are put together.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::StatusCode;
use hyper::body::Frame;

use super::http::{Answer, Body, Query, answer_with, status};
use super::resources::{Resource, Target};
use super::selector::Selector;
use super::store::{Gone, Listing};
use super::{FLUSH, Fault, Shared, lock};

/// Bytes of a list that are put together at once.
const CHUNK: usize = 1 << 18;

pub(super) fn answer(shared: &Arc<Shared>, target: &Target<'_>, query: &Query) -> Answer {
    let selector = match Selector::parse(query.get("labelSelector")) {
        Ok(selector) => selector,
        Err(message) => return status(StatusCode::BAD_REQUEST, "BadRequest", &message),
    };
    let (page, token) = match page(shared, target, query, &selector) {
        Ok(page) => page,
        Err(Gone) => {
            let message = "The provided continue parameter is too old to display a consistent list";
            return status(StatusCode::GONE, "Expired", message);
        }
    };
    let fault = shared.strike(target.resource, is_of_lists);
    let chunks = Chunks {
        head: Some(head(target.resource, page.version, token)),
        half: page.objects.len() / 2,
        page,
        fault,
        begun: false,
    };
    let body = stream::unfold(chunks, |mut chunks| async move {
        let chunk = chunks.next().await?;
        Some((chunk.map(Frame::data), chunks))
    });
    answer_with(
        StatusCode::OK,
        "application/json",
        Body::new(StreamBody::new(body)),
    )
}

/// Whether a fault strikes lists, those of watches among them.
pub(super) const fn is_of_lists(fault: &Fault) -> bool {
    matches!(fault, Fault::SlowList(_) | Fault::BrokenList)
}

/// One page, and the token for the next if there is one.
fn page(
    shared: &Shared,
    target: &Target<'_>,
    query: &Query,
    selector: &Selector,
) -> Result<(Listing, Option<u64>), Gone> {
    let mut store = lock(&shared.store);
    let mut all = match query.get("continue") {
        "" => store.list(target.resource, target.namespace),
        token => store.rest(token.parse().map_err(|_| Gone)?)?,
    };
    all.objects.retain(|object| selector.selects(object));
    let limit = query.get("limit").parse().unwrap_or(0);
    if limit == 0 || all.objects.len() <= limit {
        return Ok((all, None));
    }
    let rest = Listing {
        version: all.version,
        objects: all.objects.split_off(limit),
    };
    Ok((all, Some(store.keep(rest))))
}

fn head(resource: &Resource, version: u64, token: Option<u64>) -> Bytes {
    let (kind, api_version) = (resource.kind, resource.api_version);
    let token = token.map_or(String::new(), |token| format!(r#","continue":"{token}""#));
    let meta = format!(r#"{{"resourceVersion":"{version}"{token}}}"#);
    format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{meta},"items":["#)
        .into()
}

/// What is still to be sent of a list.
struct Chunks {
    head: Option<Bytes>,
    page: Listing,
    half: usize,
    fault: Option<Fault>,
    begun: bool,
}

impl Chunks {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut chunk = BytesMut::new();
        if let Some(head) = &self.head {
            chunk.extend_from_slice(head);
        } else if self.page.objects.is_empty() {
            return None;
        }
        while chunk.len() < CHUNK {
            if self.page.objects.len() <= self.half {
                match self.fault.take() {
                    Some(Fault::SlowList(pause)) => tokio::time::sleep(pause).await,
                    // What was said before goes out first.
                    Some(_) if self.head.take().is_some() || self.begun && !chunk.is_empty() => {
                        self.fault = Some(Fault::BrokenList);
                        return Some(Ok(chunk.freeze()));
                    }
                    Some(_) => {
                        tokio::time::sleep(FLUSH).await;
                        return Some(Err(io::ErrorKind::ConnectionReset.into()));
                    }
                    None => {}
                }
            }
            let Some(object) = self.page.objects.pop_front() else {
                break;
            };
            if self.begun {
                chunk.extend_from_slice(b",");
            }
            self.begun = true;
            chunk.extend_from_slice(&object);
        }
        self.head = None;
        if self.page.objects.is_empty() {
            chunk.extend_from_slice(b"]}");
        }
        Some(Ok(chunk.freeze()))
    }
}
