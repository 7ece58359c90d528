//! Tests over real sockets on the loopback device.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use axum::body::Bytes;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const BOUNDS: Bounds = Bounds {
    total: 4,
    per_client: 4,
    head: Duration::from_millis(300),
    whole: Some(Duration::from_millis(600)),
    answered_give_way: true,
};

struct Site {
    addr: SocketAddr,
    refused: Arc<Refused>,
}

impl Site {
    async fn open(bounds: Bounds, admit: fn(IpAddr) -> Result<(), Reason>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = Admitting { listener, admit };
        let large = Bytes::from(vec![b'x'; 64 << 20]);
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/large", get(async move || large))
            .route("/never", get(pending::<&'static str>));
        let refused = Arc::new(Refused::new().unwrap());
        let counted = Arc::clone(&refused);
        tokio::spawn(serve(Door::Metrics, listener, router, bounds, counted));
        Self { addr, refused }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    fn count(&self, reason: Reason) -> u64 {
        self.refused.count(Door::Metrics, reason)
    }

    /// Waits until a count no longer changes, and compares it.
    async fn settled(&self, reason: Reason, expected: u64) {
        let start = TokioInstant::now();
        while self.count(reason) != expected && start.elapsed() < Duration::from_secs(5) {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.count(reason), expected, "{reason:?}");
    }
}

/// Admits everybody.
const fn all(_: IpAddr) -> Result<(), Reason> {
    Ok(())
}

/// Reads until the end; returns whether the data was an answer.
async fn is_answered(mut stream: TcpStream) -> bool {
    let mut text = Vec::new();
    // A connection that is closed with unread bytes is reset.
    let _ = stream.read_to_end(&mut text).await;
    text.starts_with(b"HTTP/1.1 200 OK")
}

#[tokio::test]
async fn a_request_is_answered_while_clients_that_say_nothing_hold_all_connections() {
    let site = Site::open(BOUNDS, all).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(site.connect().await);
    }
    assert!(is_answered(site.ask("/").await).await);
    site.settled(Reason::Full, 97).await;
    for stream in idle {
        assert!(!is_answered(stream).await);
    }
    // The three connections that were held until their time was over.
    site.settled(Reason::Slow, 3).await;
}

#[tokio::test]
async fn whoever_reads_no_answer_is_cut_off_in_time_whatever_the_answers_length() {
    let site = Site::open(BOUNDS, all).await;
    let start = TokioInstant::now();
    let _slow = [site.ask("/large").await, site.ask("/never").await];
    site.settled(Reason::Slow, 2).await;
    assert!(start.elapsed() >= BOUNDS.whole.unwrap());
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_or_is_too_large_is_cut_off() {
    let site = Site::open(BOUNDS, all).await;
    let mut slow = site.connect().await;
    let start = TokioInstant::now();
    while slow.write_all(b"G").await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(50)).await;
    }
    site.settled(Reason::Slow, 1).await;
    let mut large = site.connect().await;
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD));
    large.write_all(head.as_bytes()).await.unwrap();
    assert!(!is_answered(large).await);
    site.settled(Reason::Malformed, 1).await;
}

#[tokio::test]
async fn a_body_is_not_waited_for_and_a_second_request_not_answered() {
    let site = Site::open(BOUNDS, all).await;
    let mut stream = site.connect().await;
    let one = "GET / HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(one.as_bytes()).await.unwrap();
    let start = TokioInstant::now();
    assert!(is_answered(stream).await);
    assert!(start.elapsed() < BOUNDS.whole.unwrap());
}

#[tokio::test]
async fn a_client_that_is_not_admitted_is_closed_at_once_and_counted() {
    let site = Site::open(BOUNDS, |peer| {
        assert_eq!(peer, IpAddr::V4(Ipv4Addr::LOCALHOST));
        Err(Reason::Quarantine)
    })
    .await;
    for _ in 0..3 {
        assert!(!is_answered(site.ask("/").await).await);
    }
    site.settled(Reason::Quarantine, 3).await;
}

#[tokio::test]
async fn answers_that_go_on_are_kept_and_newcomers_turned_away() {
    let bounds = Bounds {
        whole: None,
        answered_give_way: false,
        ..BOUNDS
    };
    let site = Site::open(bounds, all).await;
    let mut followers = Vec::new();
    for _ in 0..4 {
        followers.push(site.ask("/never").await);
    }
    // Wait until their requests have been read.
    sleep(Duration::from_millis(100)).await;
    assert!(!is_answered(site.ask("/").await).await);
    site.settled(Reason::Full, 1).await;
    followers.pop();
    sleep(Duration::from_millis(100)).await;
    assert!(is_answered(site.ask("/").await).await);
}

/// Fails like a process without files, then returns one connection.
struct Failing {
    failures: u32,
    inner: Admitting<fn(IpAddr) -> Result<(), Reason>>,
}

impl Accept for Failing {
    type Incoming = TcpStream;

    async fn accept(&mut self) -> io::Result<Result<(TcpStream, IpAddr), Reason>> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::Error::from_raw_os_error(nix::libc::EMFILE));
        }
        self.inner.accept().await
    }
}

#[tokio::test]
async fn a_failed_accept_is_tried_again_later_and_ends_nothing() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let inner = Admitting {
        listener,
        admit: all as fn(IpAddr) -> Result<(), Reason>,
    };
    let failing = Failing { failures: 1, inner };
    let refused = Arc::new(Refused::new().unwrap());
    let counted = Arc::clone(&refused);
    let router = Router::new().route("/", get(async || "ok"));
    tokio::spawn(serve(Door::Metrics, failing, router, BOUNDS, counted));
    let site = Site { addr, refused };
    let start = TokioInstant::now();
    assert!(!is_answered(site.connect().await).await || start.elapsed() >= RECOVER);
    assert!(start.elapsed() >= RECOVER, "it spins");
    assert!(is_answered(site.ask("/").await).await);
    assert_eq!(site.count(Reason::NoResources), 1);
}
