#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{ApiServer, Fault};

const PODS: &str = "/api/v1/pods";

/// One request to its end: status code and body.
fn ask(server: &ApiServer, method: &str, path: &str, body: &str) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = async {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(server.ca_pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let name = ServerName::from(server.address().ip());
        let tls = TlsConnector::from(Arc::new(config));
        let mut stream = tls.connect(name, stream).await.unwrap();
        let (token, length) = (server.token(), body.len());
        let head = format!(
            "{method} {path} HTTP/1.0\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        // One that breaks off in the middle has said what it said.
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    };
    let text = runtime.block_on(asked);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

fn get(server: &ApiServer, path: &str) -> Value {
    let (code, body) = ask(server, "GET", path, "");
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// What a watch of one second says: types, and names where there are any.
fn events(server: &ApiServer, query: &str) -> Vec<String> {
    let path = format!("{PODS}?watch=true&timeoutSeconds=1&{query}");
    let (_, body) = ask(server, "GET", &path, "");
    let said = |line: &str| match serde_json::from_str::<Value>(line) {
        Err(_) => format!("? {line}"),
        Ok(event) => {
            let name = event["object"]["metadata"]["name"].as_str();
            let kind = event["type"].as_str().unwrap();
            name.map_or(kind.to_owned(), |name| format!("{kind} {name}"))
        }
    };
    body.lines().map(said).collect()
}

fn pod(name: &str) -> String {
    format!("kind: Pod\napiVersion: v1\nmetadata: {{ name: {name} }}\n---\n")
}

fn with_pods(names: &[&str]) -> ApiServer {
    let server = ApiServer::start().unwrap();
    for name in names {
        server.apply(&pod(name)).unwrap();
    }
    server
}

fn version(server: &ApiServer) -> String {
    let list = get(server, PODS);
    list["metadata"]["resourceVersion"].as_str().unwrap().into()
}

#[test]
fn pages_of_a_list_are_of_one_moment_and_gone_after_a_compaction() {
    let server = with_pods(&["a", "b", "c"]);
    let first = get(&server, "/api/v1/pods?limit=2");
    assert_eq!(first["kind"], "PodList");
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["items"][0].get("kind"), None, "items don't repeat it");
    server.apply(&pod("d")).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("/api/v1/pods?limit=2&continue={token}");
    let rest = get(&server, &path);
    let names: Vec<_> = rest["items"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0]["metadata"]["name"], "c");
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    server.compact();
    assert_eq!(ask(&server, "GET", &path, "").0, 410);
}

#[test]
fn a_watch_goes_on_from_its_version_and_ends_in_time() {
    let server = with_pods(&["a"]);
    let from = version(&server);
    server.apply(&pod("a")).unwrap();
    server.apply(&pod("b")).unwrap();
    server.delete("pods", "default", "a").unwrap();
    let seen = events(&server, &format!("resourceVersion={from}"));
    assert_eq!(seen, ["MODIFIED a", "ADDED b", "DELETED a"]);
    server.compact();
    let seen = events(&server, &format!("resourceVersion={from}"));
    assert_eq!(seen, ["ERROR"]);
}

#[test]
fn a_streaming_list_ends_with_a_bookmark_and_is_refused_by_an_older_server() {
    let server = with_pods(&["a", "b"]);
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let seen = events(&server, query);
    assert_eq!(seen[..3], ["ADDED a", "ADDED b", "BOOKMARK"]);
    server.set_streaming_lists(false);
    let (code, body) = ask(&server, "GET", &format!("{PODS}?watch=1&{query}"), "");
    assert_eq!(code, 422);
    assert!(body.contains("sendInitialEvents is forbidden"), "{body}");
}

#[test]
fn faults_of_watches_strike_as_often_as_ordered() {
    let server = with_pods(&["a"]);
    let from = version(&server);
    for name in ["b", "c", "d"] {
        server.apply(&pod(name)).unwrap();
    }
    let watch = |fault: Fault| {
        let before = server.struck();
        server.inject("pods", fault, 1);
        let seen = events(&server, &format!("resourceVersion={from}"));
        assert_eq!(server.struck(), before + 1);
        seen
    };
    let all = ["ADDED b", "ADDED c", "ADDED d"];
    assert_eq!(watch(Fault::Duplicate)[..2], ["ADDED b", "ADDED b"]);
    assert_eq!(watch(Fault::Reorder), ["ADDED c", "ADDED b", "ADDED d"]);
    let garbage = watch(Fault::Garbage("}{".into()));
    assert_eq!(garbage, ["? }{", "ADDED c", "ADDED d"]);
    assert_eq!(watch(Fault::GoneEvent), ["ERROR"]);
    let half = watch(Fault::ResetMidEvent);
    assert!(
        half.len() == 1 && half[0].starts_with("? {\"type\""),
        "{half:?}"
    );
    assert_eq!(events(&server, &format!("resourceVersion={from}")), all);
}

#[test]
fn faults_of_answers_strike_lists_and_watches_alike() {
    let server = with_pods(&["a", "b"]);
    server.inject("*", Fault::status(500), 1);
    server.inject("pods", Fault::too_many_requests(7), 1);
    assert_eq!(ask(&server, "GET", PODS, "").0, 500);
    assert_eq!(ask(&server, "GET", "/api/v1/pods?watch=1", "").0, 429);
    server.inject("pods", Fault::BrokenList, 1);
    let (_, body) = ask(&server, "GET", PODS, "");
    serde_json::from_str::<Value>(&body).unwrap_err();
    server.inject("pods", Fault::SlowList(Duration::from_millis(300)), 1);
    let start = std::time::Instant::now();
    assert_eq!(get(&server, PODS)["items"].as_array().unwrap().len(), 2);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_silent_watch_doesnt_end_before_it_is_cut() {
    let server = with_pods(&["a"]);
    server.inject("pods", Fault::Silence, 1);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| events(&server, "resourceVersion=0"));
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!watch.is_finished());
        assert_eq!(server.open_watches(), 1);
        server.heal();
        std::thread::sleep(Duration::from_millis(200));
        assert!(!watch.is_finished());
        server.cut_watches();
        assert_eq!(watch.join().unwrap(), [""; 0]);
    });
}

#[test]
fn an_old_token_is_refused() {
    let server = with_pods(&["a"]);
    let old = server.token();
    server.new_token();
    assert_ne!(server.token(), old);
    assert_eq!(ask(&server, "GET", PODS, "").0, 200);
    super::lock(&server.shared.tokens).clear();
    assert_eq!(ask(&server, "GET", PODS, "").0, 401);
}

#[test]
fn objects_are_written_over_http_and_requests_are_recorded() {
    let server = ApiServer::start().unwrap();
    let path = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";
    let policy = r#"{"metadata":{"name":"closed"},"spec":{"podSelector":{}}}"#;
    assert_eq!(ask(&server, "POST", path, policy).0, 201);
    assert_eq!(ask(&server, "POST", path, policy).0, 409);
    let one = format!("{path}/closed");
    assert_eq!(get(&server, &one)["metadata"]["namespace"], "shop");
    assert_eq!(ask(&server, "PUT", &one, policy).0, 200);
    assert_eq!(ask(&server, "DELETE", &one, "").0, 200);
    assert_eq!(ask(&server, "GET", &one, "").0, 404);
    let verbs: Vec<_> = server
        .requests()
        .into_iter()
        .map(|(verb, _)| verb)
        .collect();
    assert_eq!(verbs, ["create", "delete", "get", "update"]);
    assert_eq!(
        server.count("create", "networkpolicies.networking.k8s.io"),
        2
    );
}

#[test]
fn a_group_that_isnt_there_is_404() {
    let server = ApiServer::start().unwrap();
    let (group, list) = (
        "/apis/policy.networking.k8s.io/v1alpha2",
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
    );
    assert_eq!(
        get(&server, group)["resources"][0]["name"],
        "clusternetworkpolicies"
    );
    assert_eq!(get(&server, list)["kind"], "ClusterNetworkPolicyList");
    server.set_cluster_policies(false);
    assert_eq!(ask(&server, "GET", group, "").0, 404);
    assert_eq!(ask(&server, "GET", list, "").0, 404);
}
