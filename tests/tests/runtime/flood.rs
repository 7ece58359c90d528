//! Datagrams to pods that are about to start, and the number that a pod has received.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use ringfence_tests::testnet::Ns;

use crate::containerd::SUBNET;
use crate::node::{FIRST, PATIENCE};

/// Sends datagrams to all addresses that pods may get, until it is dropped.
pub(crate) struct Flood {
    goes_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(from: &Ns) -> Self {
        let socket = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
        let socket = socket.unwrap().unwrap();
        let goes_on = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&goes_on);
        let thread = thread::spawn(move || {
            let [a, b, c] = SUBNET;
            while flag.load(Ordering::Relaxed) {
                for d in 2..=254 {
                    // Most addresses aren't assigned yet.
                    let _ = socket.send_to(b"early", (Ipv4Addr::new(a, b, c, d), 9));
                }
                sleep(Duration::from_micros(500));
            }
        });
        Self {
            goes_on,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Returns the number of datagrams to closed ports that a pod has received since its
/// process started. Earlier ones could have reached only its kernel, whose answers
/// arrive nowhere.
pub(crate) fn datagrams(ns: &Ns) -> u64 {
    let now = ns.run(|| fs::read_to_string("/proc/thread-self/net/snmp"));
    let start = Instant::now();
    let first = loop {
        // The process writes this count before anything else.
        let first =
            process_in(ns).map(|pid| fs::read_to_string(format!("/proc/{pid}/root{FIRST}")));
        match first {
            Some(Ok(first)) if first.contains("\nUdp:") && first.ends_with("\n") => break first,
            _ => assert!(start.elapsed() < PATIENCE, "no process in the pod"),
        }
        sleep(Duration::from_millis(5));
    };
    without_port(&now.unwrap().unwrap()) - without_port(&first)
}

/// Returns the id of a pod's process.
fn process_in(ns: &Ns) -> Option<u32> {
    let inode = |path: &Path| fs::metadata(path).map(|meta| meta.ino());
    let wanted = inode(ns.path()).unwrap();
    let all = fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_there = |pid: &u32| {
        let net = inode(Path::new(&format!("/proc/{pid}/ns/net")));
        net.is_ok_and(|net| net == wanted)
    };
    pids.filter(is_there)
        .find(|pid| Path::new(&format!("/proc/{pid}/root{FIRST}")).exists())
}

fn without_port(text: &str) -> u64 {
    let mut udp = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, count) = both.find(|(name, _)| *name == "NoPorts").unwrap();
    count.parse().unwrap()
}
