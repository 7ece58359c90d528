//! Connections, tokens, and who answers what.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::resources::{self, CLUSTER_POLICIES, Resource, Target};
use super::{Fault, Shared, exec, list, lock, watch, write};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Response<Body>;

/// The parameters of a query, percent-encoding undone.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(request: &Request<Incoming>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(pairs.into_owned().collect())
    }

    pub(super) fn get(&self, key: &str) -> &str {
        self.all(key).next().unwrap_or_default()
    }

    /// One that may be there several times.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        let own = self.0.iter().filter(move |(name, _)| name == key);
        own.map(|(_, value)| value.as_str())
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }
}

/// Serves until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    stop: Arc<Notify>,
) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let stream = tokio::select! {
            () = stop.notified() => return Ok(()),
            accepted = listener.accept() => accepted?.0,
        };
        stream.set_nodelay(true)?;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // Clients that go away in the middle are what tests are for.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let answer = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(request, &shared).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let connection = http.serve_connection(TokioIo::new(stream), answer);
            drop(connection.with_upgrades().await);
        });
    }
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    if !is_known(&request, shared) {
        return status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
    }
    let path = request.uri().path().to_owned();
    let has = |r: &Resource| {
        r.plural != CLUSTER_POLICIES || shared.cluster_policies.load(Ordering::SeqCst)
    };
    if let Some((namespace, pod)) = resources::exec(&path) {
        return exec::answer(request, shared, namespace, pod);
    }
    match resources::target(&path) {
        Some(target) if has(target.resource) => of_target(request, shared, &target).await,
        Some(_) => missing(),
        None => discovery(&path, has).unwrap_or_else(missing),
    }
}

fn is_known(request: &Request<Incoming>, shared: &Shared) -> bool {
    let header = request.headers().get(AUTHORIZATION);
    let token = header
        .and_then(|header| header.to_str().ok())
        .and_then(|header| header.strip_prefix("Bearer "));
    token.is_some_and(|token| lock(&shared.tokens).contains(token))
}

async fn of_target(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    target: &Target<'_>,
) -> Answer {
    let query = Query::of(&request);
    let verb = match (request.method(), target.name) {
        (&Method::GET, None) if query.is_on("watch") => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::DELETE, Some(_)) => "delete",
        _ => {
            return status(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "no such verb here",
            );
        }
    };
    shared.note(verb, &target.resource.full_name());
    let selects = |how: &str| !query.get(how).is_empty();
    if selects("fieldSelector") || selects("labelSelector") && verb != "list" {
        return status(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            "no such selector here",
        );
    }
    if matches!(verb, "list" | "watch") {
        let fault = shared.strike(target.resource, |f| matches!(f, Fault::Answer { .. }));
        if let Some(Fault::Answer {
            code,
            retry_after,
            body,
        }) = fault
        {
            return faulty(code, retry_after, body);
        }
    }
    match verb {
        "watch" => watch::answer(shared, target, &query),
        "list" => list::answer(shared, target, &query),
        "get" => write::get(shared, target),
        verb => match request.into_body().collect().await {
            Ok(body) => write::answer(shared, target, verb, &body.to_bytes()),
            Err(error) => status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        },
    }
}

/// What is served: of one group and version, or of one group.
fn discovery(path: &str, has: impl Fn(&Resource) -> bool) -> Option<Answer> {
    let own = |fits: &dyn Fn(&Resource) -> bool| {
        let all = resources::RESOURCES.iter();
        let own: Vec<_> = all.filter(|r| has(r) && fits(r)).collect();
        (!own.is_empty()).then_some(own)
    };
    if let Some(found) = own(&|r| r.root() == path) {
        let rows = found.iter().map(|r| {
            json!({"name": r.plural, "kind": r.kind, "namespaced": r.namespaced, "singularName": "",
                   "verbs": ["create", "delete", "get", "list", "update", "watch"]})
        });
        let rows: Vec<Value> = rows.collect();
        return Some(json_answer(
            StatusCode::OK,
            &json!({"kind": "APIResourceList", "apiVersion": "v1",
                    "groupVersion": found[0].api_version, "resources": rows}),
        ));
    }
    let group = path.strip_prefix("/apis/")?;
    let found = own(&|r| {
        r.api_version
            .split_once('/')
            .is_some_and(|(g, _)| g == group)
    })?;
    let (_, version) = found[0].api_version.split_once('/')?;
    let version = json!({"groupVersion": found[0].api_version, "version": version});
    Some(json_answer(
        StatusCode::OK,
        &json!({"kind": "APIGroup", "apiVersion": "v1", "name": group,
                "versions": [version], "preferredVersion": version}),
    ))
}

pub(super) fn missing() -> Answer {
    // What the muxer of a real server says where no handler is.
    full(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n")
}

pub(super) fn faulty(code: u16, retry_after: Option<u32>, body: String) -> Answer {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = if body.is_empty() {
        let reason = match code {
            StatusCode::GONE => "Expired",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::FORBIDDEN => "Forbidden",
            _ => "InternalError",
        };
        status(code, reason, "a fault on order")
    } else {
        full(code, "application/json", body)
    };
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

/// A Status object, as every failure has one.
pub(super) fn status(code: StatusCode, reason: &str, message: &str) -> Answer {
    json_answer(code, &status_object(code.as_u16(), reason, message))
}

pub(super) fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "message": message, "reason": reason, "code": code})
}

pub(super) fn json_answer(code: StatusCode, value: &Value) -> Answer {
    full(code, "application/json", value.to_string())
}

pub(super) fn full(code: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let body = Full::new(text.into()).map_err(|never| match never {});
    answer_with(code, kind, Body::new(body))
}

pub(super) fn answer_with(code: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    let kind = hyper::header::HeaderValue::from_static(kind);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
