use std::net::Ipv4Addr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;

use super::*;
use crate::testing::{FakeDataplane, shared};
use crate::web::issued::{self, Authority, Issued};
use crate::web::{Reason, Refused};
use ringfence_api::Status;

const PATIENCE: Duration = Duration::from_secs(10);

/// The listener over a fake datapath, and a client that it accepts.
struct Site {
    addr: SocketAddr,
    shared: Arc<Shared>,
    kernel: FakeDataplane,
    client: Arc<ClientConfig>,
    servers: Authority,
    folder: tempfile::TempDir,
}

impl Site {
    async fn open() -> Self {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let folder = tempfile::tempdir().unwrap();
        let files = issued::files(folder.path(), &servers.issue("agent"), &clients.pem());
        let certificates = Arc::new(Certificates::read(files).unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let kernel = FakeDataplane::default();
        let mut shared = shared(&kernel);
        shared.remote = Some(Remote {
            address,
            certificates: Arc::clone(&certificates),
        });
        let shared = Arc::new(shared);
        serve(listener, Arc::clone(&shared), certificates, BOUNDS).unwrap();
        let client = issued::client(&servers, Some(&clients.issue("relay")));
        Self {
            addr: address,
            shared,
            kernel,
            client,
            servers,
            folder,
        }
    }

    /// Returns the status code and JSON of an answer.
    async fn ask(&self, request: &str) -> (u16, Value) {
        let asked = issued::answer(self.addr, &self.client, request);
        let (first, body) = timeout(PATIENCE, asked).await.unwrap().unwrap();
        let code = first.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(&body).unwrap_or_default())
    }

    fn refused(&self) -> &Refused {
        &self.shared.metrics.refused
    }
}

#[tokio::test]
async fn a_program_reads_what_the_socket_shows() {
    let site = Site::open().await;
    let (code, status) = site.ask("GET /v1/status").await;
    let status: Status = serde_json::from_value(status).unwrap();
    assert_eq!((code, &status), (200, &site.shared.status()));
    let api = status.api.unwrap();
    assert_eq!(api.address, site.addr.to_string());
    assert_eq!(api.certificate_error, None);
    let empty = (200, Value::Array(Vec::new()));
    assert_eq!(site.ask("GET /v1/endpoints").await, empty);
    assert_eq!(site.ask("GET /v1/drops").await, empty);
    let (code, connections) = site.ask("GET /v1/connections").await;
    assert_eq!(
        (code, &connections["error"]),
        (500, &"connections: no such map".into())
    );
}

#[tokio::test]
async fn nothing_there_makes_a_pass_and_nothing_can_be_written() {
    let site = Site::open().await;
    for request in [
        "GET /v1/wait?pod=ns/a",
        "GET /v1/bound?pod=ns/a&device=1&milliseconds=1",
        "GET /metrics",
        "GET /",
    ] {
        assert_eq!(site.ask(request).await.0, 404, "{request}");
    }
    for path in ["status", "endpoints", "drops", "connections", "events"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let request = format!("{method} /v1/{path}");
            assert_eq!(site.ask(&request).await.0, 405, "{request}");
        }
    }
    assert_eq!(site.shared.ticket(), 0, "no pass was asked for");
}

#[tokio::test]
async fn the_kernel_is_asked_once_a_second_at_most_however_often_a_client_asks() {
    let site = Site::open().await;
    let start = std::time::Instant::now();
    for _ in 0..40 {
        assert_eq!(site.ask("GET /v1/endpoints").await.0, 200);
    }
    let asked = site.kernel.0.lock().unwrap().asked;
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!((1..=seconds + 1).contains(&asked), "{asked}");
}

#[tokio::test]
async fn followers_get_events_and_have_a_share_each_that_is_given_back() {
    let site = Site::open().await;
    let follow = async || {
        let request = issued::ask(site.addr, &site.client, "GET /v1/events");
        BufReader::new(request.await.unwrap()).lines()
    };
    let mut followers = [
        follow().await,
        follow().await,
        follow().await,
        follow().await,
    ];
    for follower in &mut followers {
        let first = follower.next_line().await.unwrap().unwrap();
        assert_eq!(first, "HTTP/1.1 200 OK");
    }
    let (code, why) = site.ask("GET /v1/events").await;
    assert_eq!(code, 429, "{why}");
    assert!(why["error"].as_str().unwrap().contains("too many"), "{why}");
    assert_eq!(
        site.ask("GET /v1/endpoints").await.0,
        200,
        "lists are served"
    );
    site.shared.events.send("{\"n\":1}".into()).unwrap();
    for follower in &mut followers {
        let wait = async { while follower.next_line().await.unwrap().unwrap() != "{\"n\":1}" {} };
        timeout(PATIENCE, wait).await.unwrap();
    }
    drop(followers);
    let given_back = async {
        while site.shared.events.receiver_count() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, given_back).await.unwrap();
    let mut again = issued::ask(site.addr, &site.client, "GET /v1/events")
        .await
        .unwrap();
    let mut head = [0; 15];
    again.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn without_a_certificate_nothing_is_read() {
    let site = Site::open().await;
    let nobody = issued::client(&site.servers, None);
    assert!(
        issued::answer(site.addr, &nobody, "GET /v1/status")
            .await
            .is_err()
    );
    let count = || site.refused().count(Door::Api, Reason::NoCertificate);
    let counted = async {
        while count() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
}

#[tokio::test]
async fn files_that_break_show_in_the_status_and_new_ones_are_in_force_by_themselves() {
    let site = Site::open().await;
    let write = |own: &Issued| issued::files(site.folder.path(), own, "");
    let expired = site.servers.expired("agent");
    write(&expired);
    let health = || site.shared.status().api.unwrap();
    let until = async |done: &dyn Fn(&RemoteStatus) -> bool| {
        let wait = async {
            while !done(&health()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap();
    };
    until(&|api| api.certificate_error.is_some()).await;
    let error = health().certificate_error.unwrap();
    assert!(error.starts_with("--api-client-ca "), "{error}");
    assert_eq!(site.ask("GET /v1/status").await.0, 200, "as before");
    issued::files(site.folder.path(), &expired, &site.servers.pem());
    let before = health().certificate_expires;
    until(&|api| api.certificate_expires < before).await;
    assert_eq!(health().certificate_error, None);
    let asked = issued::answer(site.addr, &site.client, "GET /v1/status");
    assert!(
        asked.await.is_err(),
        "its authority is gone, and its server's certificate expired"
    );
}
