//! Tests over real sockets on the loopback device.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::routing::get;
use futures_util::stream::pending;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};

use super::super::issued::{self, Authority, ELSEWHERE, HERE, Issued, client, connect};
use super::super::{Bounds, CertificateFiles, Door, GoesOn, Refused, serve};
use super::*;

const BOUNDS: Bounds = Bounds {
    total: 64,
    per_client: 16,
    head: Duration::from_secs(1),
    whole: Some(Duration::from_secs(1)),
    answered_give_way: false,
};
const PATIENCE: Duration = Duration::from_secs(10);
const OK: &str = "HTTP/1.1 200 OK";

struct Site {
    addr: SocketAddr,
    refused: Arc<Refused>,
    admission: Arc<Admission>,
    certificates: Arc<Certificates>,
    files: CertificateFiles,
    servers: Authority,
    clients: Authority,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn open(names: &[&str]) -> Self {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let folder = tempfile::tempdir().unwrap();
        let own = servers.issue("agent");
        let mut files = issued::files(folder.path(), &own, &clients.pem());
        files.client_names = names.iter().map(ToString::to_string).collect();
        let certificates = Arc::new(Certificates::read(files.clone()).unwrap());
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let admission = Arc::new(Admission::default());
        let admitted = Arc::clone(&admission);
        let inner = Admitting {
            listener,
            admit: move |peer| admitted.admit_probe(peer),
        };
        let listener = TlsListener::new(inner, Arc::clone(&admission), Arc::clone(&certificates));
        let refused = Arc::new(Refused::new().unwrap());
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/never", get(std::future::pending::<&'static str>))
            .route("/follow", get(async || follow()));
        let counted = Arc::clone(&refused);
        tokio::spawn(serve(Door::Api, listener, router, BOUNDS, counted));
        Self {
            addr,
            refused,
            admission,
            certificates,
            files,
            servers,
            clients,
            _folder: folder,
        }
    }

    fn client(&self, own: &Issued) -> Arc<ClientConfig> {
        client(&self.servers, Some(own))
    }

    async fn is_served(&self, client: &Arc<ClientConfig>) -> bool {
        let answered = timeout(PATIENCE, issued::answer(self.addr, client, "GET /"));
        let answered = answered.await.unwrap();
        answered.is_ok_and(|answer| answer == (OK.to_owned(), "ok".to_owned()))
    }

    async fn is_refused(&self, client: &Arc<ClientConfig>, reason: Reason) {
        assert!(!self.is_served(client).await, "{reason:?}");
        self.settled(reason, 1).await;
    }

    /// Waits until a count no longer changes, and compares it.
    async fn settled(&self, reason: Reason, expected: u64) {
        let count = || self.refused.count(Door::Api, reason);
        let wait = async {
            while count() != expected {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(PATIENCE, wait).await;
        assert_eq!(count(), expected, "{reason:?}");
    }
}

/// An answer that starts and never ends.
fn follow() -> Response {
    let mut response = Response::new(Body::from_stream(pending::<Result<Bytes, io::Error>>()));
    response.extensions_mut().insert(GoesOn);
    response
}

#[tokio::test]
async fn a_client_with_a_certificate_of_the_authority_is_answered() {
    let site = Site::open(&[]).await;
    assert!(
        site.is_served(&site.client(&site.clients.issue("relay")))
            .await
    );
}

#[tokio::test]
async fn nobody_else_is_answered_and_each_is_counted_by_its_reason() {
    let site = Site::open(&[]).await;
    let nobody = client(&site.servers, None);
    site.is_refused(&nobody, Reason::NoCertificate).await;
    let foreign = site.client(&site.servers.issue("relay"));
    site.is_refused(&foreign, Reason::UnknownAuthority).await;
    let expired = site.client(&site.clients.expired("relay"));
    site.is_refused(&expired, Reason::ExpiredCertificate).await;
    let server = site.client(&site.clients.for_servers("relay"));
    site.is_refused(&server, Reason::BadCertificate).await;
    let own = site.clients.issue("relay");
    let old = issued::client_of(&[&TLS12], &site.servers, Some(&own));
    site.is_refused(&old, Reason::Handshake).await;
    let mistrusts = client(&site.clients, Some(&own));
    assert!(!site.is_served(&mistrusts).await);
    site.settled(Reason::Handshake, 2).await;

    let mut plain = connect(HERE, site.addr).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n";
    plain.write_all(request).await.unwrap();
    let mut text = Vec::new();
    let _ = plain.read_to_end(&mut text).await;
    assert!(!text.starts_with(b"HTTP"), "{text:?}");
    site.settled(Reason::Malformed, 1).await;
}

#[tokio::test]
async fn where_names_are_listed_a_certificate_has_one_of_them() {
    let uri = "spiffe://cluster.local/ns/monitoring/sa/relay";
    let site = Site::open(&["relay", uri]).await;
    assert!(
        site.is_served(&site.client(&site.clients.issue("relay")))
            .await
    );
    let by_uri = site.clients.with_uri("somebody", uri);
    assert!(site.is_served(&site.client(&by_uri)).await);
    let other = site.client(&site.clients.issue("relay2"));
    site.is_refused(&other, Reason::NameNotListed).await;
    let foreign = site.client(&site.servers.issue("relay"));
    site.is_refused(&foreign, Reason::UnknownAuthority).await;
    let by_dns = Site::open(&["localhost"]).await;
    assert!(
        by_dns
            .is_served(&by_dns.client(&by_dns.clients.issue("x")))
            .await
    );
}

#[tokio::test]
async fn who_says_nothing_in_the_handshake_is_cut_off_in_time() {
    let site = Site::open(&[]).await;
    let silent = connect(HERE, site.addr).await.unwrap();
    let mut slow = connect(HERE, site.addr).await.unwrap();
    // A handshake record that arrives byte by byte.
    let mut sent = vec![0x16, 3, 1, 2, 0];
    sent.resize(200, 1);
    for byte in sent {
        if slow.write_all(&[byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    site.settled(Reason::Slow, 2).await;
    let own = site.client(&site.clients.issue("relay"));
    let unread = issued::ask(site.addr, &own, "GET /never").await.unwrap();
    site.settled(Reason::Slow, 3).await;
    drop((silent, unread));
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_nobody_else_from_being_served() {
    let site = Site::open(&[]).await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(connect(ELSEWHERE, site.addr).await.unwrap());
    }
    let own = site.client(&site.clients.issue("relay"));
    for _ in 0..3 {
        assert!(site.is_served(&own).await);
    }
    let count = |reason| site.refused.count(Door::Api, reason);
    assert!(count(Reason::TooOften) > 0 && count(Reason::Full) > 0);
}

#[tokio::test]
async fn a_client_that_calls_without_end_is_closed_before_its_handshake() {
    let site = Site::open(&[]).await;
    let nobody = client(&site.servers, None);
    for _ in 0..150 {
        let _ = issued::answer(site.addr, &nobody, "GET /").await;
    }
    let count = |reason| site.refused.count(Door::Api, reason);
    assert!(count(Reason::TooOften) > 0);
    assert!(count(Reason::NoCertificate) < 150);
}

#[tokio::test]
async fn a_pod_under_quarantine_gets_nothing_whatever_its_certificate() {
    let site = Site::open(&[]).await;
    let own = site.client(&site.clients.issue("relay"));
    site.admission.begin_with(vec![HERE]);
    site.is_refused(&own, Reason::Quarantine).await;
    site.admission.begin_with(Vec::new());
    assert!(site.is_served(&own).await);
}

#[tokio::test]
async fn an_answer_goes_on_for_as_long_as_its_client_may_be_served() {
    let site = Site::open(&[]).await;
    let own = site.client(&site.clients.issue("relay"));
    let follow = async || {
        let mut stream = issued::ask(site.addr, &own, "GET /follow").await.unwrap();
        let mut head = [0; OK.len()];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head[..], OK.as_bytes());
        stream
    };
    let mut cut_off = follow().await;
    // Longer than other answers may take.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(site.refused.count(Door::Api, Reason::Slow), 0);
    site.admission.begin_with(vec![HERE]);
    site.settled(Reason::Quarantine, 1).await;
    let _ = timeout(PATIENCE, cut_off.read_to_end(&mut Vec::new())).await;
    site.admission.begin_with(Vec::new());

    let _mistrusted = follow().await;
    let others = Authority::new("others");
    std::fs::write(&site.files.client_ca, others.pem()).unwrap();
    site.certificates.look();
    site.settled(Reason::UnknownAuthority, 1).await;
}

#[tokio::test]
async fn no_session_is_resumed_so_that_each_connection_shows_its_certificate() {
    let site = Site::open(&[]).await;
    let own = site.client(&site.clients.issue("relay"));
    for _ in 0..3 {
        let mut stream = issued::ask(site.addr, &own, "GET /").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
    }
}
