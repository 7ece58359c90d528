//! A revocation in mid-stream: packets sent after it never arrive, in either direction.
//!
//! Each payload carries the time it was sent, so that packets in transit when policy
//! changes aren't taken for later ones.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_policy::tables::Tables;
use ringfence_tests::oracle::check;
use ringfence_tests::packets::fixture::{NODE, address};
use ringfence_tests::testnet::{Mode, Ns};

use super::flips::{by_labels, interfaces, relabelled};
use super::packets::{Node, network};
use super::witness::lasting;

const TCP: u16 = 8080;
const UDP: u16 = 5353;
/// The pause between two packets of each end.
const PAUSE: Duration = Duration::from_micros(200);
/// How long traffic flows before a change, and may arrive after one.
const WHILE: Duration = Duration::from_millis(60);
/// How long that may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// One end of a connection: the latest time it received, and how often it has sent all
/// it could and read all there was.
#[derive(Default, Debug)]
struct End {
    heard: AtomicU64,
    turns: AtomicU64,
}

/// Both ends of both connections: caller and callee over TCP, then over UDP.
struct Talks {
    begin: Instant,
    stop: AtomicBool,
    ends: [End; 4],
}

impl Talks {
    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    fn heard(&self) -> [u64; 4] {
        self.ends.each_ref().map(|e| e.heard.load(Ordering::SeqCst))
    }

    fn turns(&self) -> [u64; 4] {
        self.ends.each_ref().map(|e| e.turns.load(Ordering::SeqCst))
    }

    fn runs(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn hears(&self, end: usize, stamp: [u8; 8]) {
        let stamp = u64::from_be_bytes(stamp);
        self.ends[end].heard.fetch_max(stamp, Ordering::SeqCst);
    }

    /// Sends the time and reads whatever arrives, until told to stop.
    fn stream(&self, end: usize, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut unsaid, mut heard) = (Vec::new(), Vec::new());
        let mut room = [0; 4096];
        while self.runs() {
            if unsaid.is_empty() {
                unsaid.extend(self.now().to_be_bytes());
            }
            if let Some(sent) = done(stream.write(&unsaid)) {
                unsaid.drain(..sent);
            }
            if let Some(length) = done(stream.read(&mut room)) {
                heard.extend_from_slice(&room[..length]);
                while let Some(stamp) = heard.first_chunk::<8>().copied() {
                    heard.drain(..8);
                    self.hears(end, stamp);
                }
            }
            self.ends[end].turns.fetch_add(1, Ordering::SeqCst);
            thread::sleep(PAUSE);
        }
    }

    /// Does the same with datagrams. The callee sends second: a datagram it sends
    /// unprompted would open a connection of its own, which no policy revokes.
    fn exchange(&self, end: usize, socket: &UdpSocket, to: SocketAddr, calls: bool) {
        socket.set_nonblocking(true).unwrap();
        while self.runs() {
            if calls || self.ends[end].heard.load(Ordering::SeqCst) > 0 {
                done(socket.send_to(&self.now().to_be_bytes(), to));
            }
            let mut stamp = [0; 8];
            while done(socket.recv(&mut stamp)) == Some(8) {
                self.hears(end, stamp);
            }
            self.ends[end].turns.fetch_add(1, Ordering::SeqCst);
            thread::sleep(PAUSE);
        }
    }

    /// Returns once every end has received a time later than `since`.
    fn connections(&self, since: u64) {
        let start = Instant::now();
        while self.heard().iter().any(|heard| *heard <= since) {
            assert!(start.elapsed() < PATIENCE, "{:?} at {since}", self.ends);
            thread::sleep(PAUSE);
        }
    }

    /// Returns once every end has read everything that had reached it.
    fn settles(&self) {
        thread::sleep(WHILE / 2);
        let (start, before) = (Instant::now(), self.turns());
        let behind = |(now, old): (u64, u64)| now < old + 2;
        while self.turns().into_iter().zip(before).any(behind) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.ends);
            thread::sleep(PAUSE);
        }
    }
}

/// Returns the result of a system call, or `None` if it would block.
fn done(result: std::io::Result<usize>) -> Option<usize> {
    match result {
        Ok(count) => Some(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("the conversation broke: {error}"),
    }
}

/// The caller's connections to the callee, new in each round.
struct Sockets {
    streams: [TcpStream; 2],
    sockets: [UdpSocket; 2],
}

fn connect(caller: &Ns, callee: &Ns, to: IpAddr, round: u16) -> Sockets {
    // A port per round: nothing of the round before may answer.
    let port = 20_000 + round;
    let listener = callee
        .run(|| TcpListener::bind((to, TCP)))
        .unwrap()
        .unwrap();
    let stream = caller
        .run(|| TcpStream::connect((to, TCP)))
        .unwrap()
        .unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let from = stream.local_addr().unwrap().ip();
    let bind = |ns: &Ns, at: (IpAddr, u16)| ns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    Sockets {
        streams: [stream, accepted],
        sockets: [bind(caller, (from, port)), bind(callee, (to, UDP))],
    }
}

/// Returns objects in which the caller isn't allowed to call the callee.
fn revoked() -> Vec<serde_json::Value> {
    let mut objects = by_labels();
    let labels = serde_json::json!({"app": "caller", "ringfence.dev/egress": "enforce"});
    relabelled(&mut objects, "caller", &labels);
    objects
}

/// Opens connections, revokes them in mid-stream and checks that nothing arrives after that.
fn round(
    node: &mut Node,
    buffers: &[(Tables, Vec<ringfence::datapath::Interface>); 2],
    sockets: Sockets,
) {
    let talks = Talks {
        begin: Instant::now(),
        stop: AtomicBool::new(false),
        ends: Default::default(),
    };
    let [open, shut] = buffers;
    let at = sockets.sockets.each_ref().map(|s| s.local_addr().unwrap());
    let (revoked, settled) = thread::scope(|scope| {
        // Declared first, so that it is dropped last: a panic ends the threads too.
        let stop = Stop(&talks.stop);
        let talks = &talks;
        for (end, stream) in sockets.streams.into_iter().enumerate() {
            scope.spawn(move || talks.stream(end, stream));
        }
        for (end, socket) in sockets.sockets.iter().enumerate() {
            let to = at[1 - end];
            scope.spawn(move || talks.exchange(2 + end, socket, to, end == 0));
        }
        talks.connections(0);
        thread::sleep(WHILE);
        talks.connections(talks.now());
        node.datapath.apply(&shut.0, &shut.1).unwrap();
        let revoked = talks.now();
        talks.settles();
        let settled = talks.heard();
        // Long enough for a stream to retransmit.
        thread::sleep(WHILE);
        talks.settles();
        drop(stop);
        (revoked, settled)
    });
    let heard = talks.heard();
    assert!(
        heard.iter().all(|heard| *heard <= revoked),
        "revoked at {revoked}, heard up to {heard:?}"
    );
    assert_eq!(heard, settled, "something still arrives");
    let applied = node.datapath.apply(&open.0, &open.1).unwrap();
    assert_eq!(applied.failed, []);
}

/// Ends the threads even if something panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_of_a_revoked_connection_that_is_sent_after_the_change_arrives_at_either_end() {
    let net = network(Mode::Routed);
    let [caller, callee] = ["caller", "callee"].map(|pod| &net.pod(pod).unwrap().ns);
    let storm = || {
        let mut node = Node::guard(&net, false);
        let buffers = [by_labels(), revoked()].map(|objects| {
            let tables = check::compile(&objects, Some(NODE)).unwrap();
            let interfaces = interfaces(&net, &tables);
            (tables, interfaces)
        });
        node.datapath.apply(&buffers[0].0, &buffers[0].1).unwrap();
        let (start, time, mut rounds) = (Instant::now(), lasting(8), 0);
        while start.elapsed() < time {
            let to = address("callee", rounds % 2 == 0);
            let before = node.risen();
            assert!(before.values().all(|n| *n > 0));
            round(&mut node, &buffers, connect(caller, callee, to, rounds));
            let risen = node.risen();
            // Both ends kept sending after the change, and both were counted.
            for ends in [
                ("bank/caller", "bank/callee"),
                ("bank/callee", "bank/caller"),
            ] {
                for protocol in ["tcp", "udp"] {
                    let counted = risen.iter().any(|(series, _)| {
                        (series.source.as_str(), series.destination.as_str()) == ends
                            && series.protocol == protocol
                    });
                    assert!(counted, "{ends:?} over {protocol} isn't among {risen:?}");
                }
            }
            rounds += 1;
        }
        rounds
    };
    let rounds = net.node().run(storm).unwrap();
    eprintln!("{rounds} revocations");
    assert!(rounds > 3, "{rounds} rounds");
}
