//! Numbered packets at the rate of a busy service while something happens to the agent.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::agent::Shop;
use ringfence_tests::testnet::Ns;

/// The UDP port of the server that receives the numbers.
pub(crate) const SINK: u16 = 6000;
/// The port on which the rogue answers.
const PUSHING: u16 = 6001;
/// Allowed packets per second.
const RATE: u32 = 10_000;
/// Denied packets per second.
const REFUSED: u32 = 1000;
/// The number of bursts per second in which packets are sent.
const BURSTS: u32 = 500;
/// Packets in transit arrive within that time.
const SETTLED: Duration = Duration::from_millis(500);
/// Data sent over TCP arrives within that time, retransmitted or not.
const HEARD: Duration = Duration::from_secs(15);

/// The counts of all packets.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Allowed packets sent.
    pub(crate) sent: u64,
    /// Allowed packets that arrived.
    pub(crate) arrived: u64,
    /// Packets that found the socket's buffer full: only the reader is to blame.
    pub(crate) overflown: u64,
    /// Denied packets sent.
    pub(crate) refused: u64,
    /// Denied packets that arrived.
    pub(crate) let_through: u64,
}

impl Numbers {
    /// Returns the number of allowed packets lost in transit.
    pub(crate) fn lost(&self) -> i128 {
        i128::from(self.sent) - i128::from(self.arrived) - i128::from(self.overflown)
    }
}

/// Ends the traffic even if the play panics; nothing else would.
struct Curtain<'a>(&'a AtomicBool);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Plays while the client sends numbers to the server, and the rogue tries to.
pub(crate) fn under_numbers(shop: &mut Shop, play: impl FnOnce(&mut Shop)) -> Numbers {
    let [client, rogue, server] = ["client", "rogue", "server"].map(|pod| shop.ns(pod).unwrap());
    let (client, rogue, server) = (client.clone(), rogue.clone(), server.clone());
    let to = shop.address("server", true, SINK).unwrap();
    let sink = server
        .run(|| UdpSocket::bind(("0.0.0.0", SINK)))
        .unwrap()
        .unwrap();
    sink.set_read_timeout(Some(SETTLED)).unwrap();
    let before = overflown(&server);
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut numbers = Numbers::default();
    thread::scope(|scope| {
        // Also if the play panics.
        let _end = Curtain(&ended);
        let curtain = Curtain(&stop);
        let receiver = scope.spawn(|| receive(&sink, &ended));
        let allowed = scope.spawn(|| send(&client, to, RATE, 0, &stop));
        let refused = scope.spawn(|| send(&rogue, to, REFUSED, FROM_ROGUE, &stop));
        thread::sleep(SETTLED);
        play(shop);
        thread::sleep(SETTLED);
        drop(curtain);
        numbers.sent = allowed.join().unwrap();
        numbers.refused = refused.join().unwrap();
        ended.store(true, Ordering::Relaxed);
        (numbers.arrived, numbers.let_through) = receiver.join().unwrap();
    });
    numbers.overflown = overflown(&server) - before;
    numbers
}

/// The bit set in the rogue's numbers.
const FROM_ROGUE: u64 = 1 << 63;

/// Sends numbers until it is stopped. Returns how many.
fn send(from: &Ns, to: SocketAddr, rate: u32, mark: u64, stop: &AtomicBool) -> u64 {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let (start, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_secs_f64() * f64::from(rate);
        // If it is far behind, it skips the missed packets: catching up would be a flood.
        let due = (due as u64).min(sent + u64::from(rate / BURSTS * 5));
        while sent < due {
            socket.send_to(&(mark | sent).to_be_bytes(), to).unwrap();
            sent += 1;
        }
        thread::sleep(Duration::from_secs(1) / BURSTS);
    }
    sent
}

/// Returns how many of the client's and the rogue's numbers arrive, each counted once.
fn receive(sink: &UdpSocket, ended: &AtomicBool) -> (u64, u64) {
    let (mut seen, mut from_rogue) = (HashSet::new(), 0);
    loop {
        let mut number = [0; 8];
        match sink.recv(&mut number) {
            Ok(_) if u64::from_be_bytes(number) & FROM_ROGUE != 0 => from_rogue += 1,
            Ok(_) => drop(seen.insert(u64::from_be_bytes(number))),
            Err(_) if ended.load(Ordering::Relaxed) => return (seen.len() as u64, from_rogue),
            Err(_) => {}
        }
    }
}

/// Returns the number of datagrams that found a socket of a namespace full.
fn overflown(ns: &Ns) -> u64 {
    let text = ns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"));
    let text = text.unwrap().unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (head, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = head.split_whitespace().zip(values.split_whitespace());
    let field = fields.find(|(name, _)| *name == "RcvbufErrors");
    field.unwrap().1.parse().unwrap()
}

/// A connection opened by the server on which only the rogue sends: if a new agent
/// starts with empty connection tables, the first packet is one of the rogue's.
pub(crate) struct Pushed {
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    fault: Arc<Mutex<Option<String>>>,
}

impl Pushed {
    /// Connects the server to the rogue, which sends from then on.
    pub(crate) fn open(shop: &Shop) -> Self {
        let at = shop.address("rogue", true, PUSHING).unwrap();
        let rogue = shop.ns("rogue").unwrap();
        let listener = rogue.run(|| TcpListener::bind(at)).unwrap().unwrap();
        let server = shop.ns("server").unwrap();
        let mut hears = server.run(|| TcpStream::connect(at)).unwrap().unwrap();
        let (mut speaks, _) = listener.accept().unwrap();
        let pushed = Self {
            heard: Arc::default(),
            stop: Arc::default(),
            fault: Arc::default(),
        };
        let (stop, heard) = (Arc::clone(&pushed.stop), Arc::clone(&pushed.heard));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) && speaks.write_all(b"word").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let fault = Arc::clone(&pushed.fault);
        thread::spawn(move || {
            loop {
                if let Err(error) = hears.read_exact(&mut [0; 4]) {
                    *fault.lock().unwrap() = Some(error.to_string());
                    return;
                }
                heard.fetch_add(1, Ordering::Relaxed);
            }
        });
        pushed
    }

    /// Fails unless data keeps arriving.
    pub(crate) fn is_heard(&self) {
        let (start, before) = (Instant::now(), self.heard.load(Ordering::Relaxed));
        while self.heard.load(Ordering::Relaxed) < before + 5 {
            let fault = self.fault.lock().unwrap();
            assert!(
                start.elapsed() < HEARD && fault.is_none(),
                "silent: {fault:?}"
            );
            drop(fault);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Pushed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
