//! Policy that changes continuously: two buffers alternate that have nothing in common
//! except their verdicts for these pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use ringfence::datapath::{Datapath, Interface};
use ringfence::runtime::FoundBy;
use ringfence_policy::tables::Tables;
use ringfence_tests::agent::{Exchange, Talk};
use ringfence_tests::oracle::check;
use ringfence_tests::packets::fixture::{self, NODE, address};
use ringfence_tests::testnet::{Mode, Net, Ns, Probe, Server, probe_tcp, probe_udp, send_udp};
use serde_json::{Value, json};

use super::packets::{Node, network};
use super::witness::{Curtain, Witness, lasting};

const TCP: u16 = 8080;
const UDP: u16 = 5353;
/// Without an answer for this long, a packet was lost.
const LOST: Duration = Duration::from_secs(10);
/// Less than a second, so a denied call is one packet: no SYN is retransmitted.
const DENIED: Duration = Duration::from_millis(150);
/// The number of denied datagrams in a burst.
const BURST: u32 = 8;

fn policy(name: &str, app: &str, spec: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "bank", "name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        policy["spec"][key] = value.clone();
    }
    policy
}

fn ports() -> Value {
    json!([{"protocol": "TCP", "port": TCP}, {"protocol": "UDP", "port": UDP}])
}

/// Replaces the labels of one pod in the fixture.
pub(crate) fn relabelled(objects: &mut [Value], pod: &str, labels: &Value) {
    let named = |o: &&mut Value| o["kind"] == "Pod" && o["metadata"]["name"] == pod;
    objects.iter_mut().find(named).unwrap()["metadata"]["labels"] = labels.clone();
}

/// Returns the allowed calls expressed as labels.
pub(crate) fn by_labels() -> Vec<Value> {
    let mut objects = fixture::objects();
    let callee = json!({"app": "callee", "ringfence.dev/ingress": "enforce"});
    let caller = json!({
        "app": "caller", "ringfence.dev/egress": "enforce",
        "egress.ringfence.dev/callee": format!("{TCP}_udp-{UDP}"),
    });
    relabelled(&mut objects, "callee", &callee);
    relabelled(&mut objects, "caller", &caller);
    objects
}

/// Returns the same calls as NetworkPolicies, among blocks, ports and pods that the
/// other buffer doesn't contain.
fn by_policies() -> Vec<Value> {
    let mut objects = fixture::objects();
    objects.retain(|o| o["kind"] != "NetworkPolicy");
    relabelled(&mut objects, "callee", &json!({"app": "callee"}));
    relabelled(&mut objects, "caller", &json!({"app": "caller"}));
    let caller = json!([{"podSelector": {"matchLabels": {"app": "caller"}}}]);
    let callee = json!([{"podSelector": {"matchLabels": {"app": "callee"}}}]);
    let block = |i: u32| json!({"ipBlock": {"cidr": format!("172.16.{i}.0/24")}});
    let blocks: Vec<Value> = (0..100).map(block).collect();
    let ingress = json!({
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": caller, "ports": ports()},
            {"from": blocks, "ports": [{"protocol": "TCP", "port": 2000, "endPort": 3000}]},
        ],
    });
    let egress = json!({
        "policyTypes": ["Egress"],
        "egress": [{"to": callee, "ports": ports()}, {"to": [block(200)]}],
    });
    objects.push(policy("callee", "callee", &ingress));
    objects.push(policy("caller", "caller", &egress));
    objects.extend((0..50).map(|i| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "bank", "name": format!("other-{i}"),
                "labels": {"app": "caller"}},
            "spec": {"nodeName": "node-b", "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIP": format!("10.244.2.{i}")},
        })
    }));
    objects
}

/// Asserts that no number of one buffer has a meaning in the other.
fn assert_buffers_differ(buffers: &[Tables; 2]) {
    let [a, b] = buffers;
    let ids = |tables: &Tables| -> BTreeSet<u32> {
        let rules = tables.rules.keys();
        rules
            .flat_map(|(ruleset, class)| [*ruleset, *class])
            .filter(|id| *id != 0)
            .collect()
    };
    assert!(ids(a).is_disjoint(&ids(b)), "{:?} {:?}", a.rules, b.rules);
    assert!(!ids(a).is_empty() && !ids(b).is_empty());
}

pub(crate) fn interfaces(net: &Net, tables: &Tables) -> Vec<Interface> {
    let pods = tables.endpoints.keys();
    pods.map(|key| {
        let pod = net.pod(&key.name).unwrap();
        Interface {
            pod: key.clone(),
            ifindex: if_nametoindex(pod.host_device.as_str()).unwrap(),
            name: pod.host_device.clone(),
            mac: pod.mac,
            by: FoundBy::CniCache,
        }
    })
    .collect()
}

fn servers(ns: &Ns) -> Server {
    let server = Server::default().tcp(ns, TCP, "here").unwrap();
    server.udp(ns, UDP).unwrap()
}

/// Sends all traffic that policy allows from one pod to another, on old and new connections.
fn allowed<'a>(scope: &'a thread::Scope<'a, '_>, witness: &'a Witness, from: &'a Ns, to: IpAddr) {
    scope.spawn(move || {
        let mut talk = Talk::open(from, SocketAddr::new(to, TCP)).unwrap();
        let mut exchange = Exchange::open(from, SocketAddr::new(to, UDP)).unwrap();
        while witness.runs() {
            assert!(talk.echo(LOST).unwrap(), "a word to {to} was lost");
            assert!(exchange.echo(LOST).unwrap(), "a datagram to {to} was lost");
            witness.pause(&witness.old);
        }
    });
    scope.spawn(move || {
        while witness.runs() {
            let tcp = probe_tcp(from, to, TCP, LOST).unwrap();
            let udp = probe_udp(from, to, UDP, LOST).unwrap();
            assert_eq!([tcp, udp], [Probe::Open; 2], "new ones to {to}");
            witness.pause(&witness.new);
        }
    });
}

/// Sends all traffic that policy denies: a fixed number of packets per round.
fn denied<'a>(scope: &'a thread::Scope<'a, '_>, witness: &'a Witness, from: &'a Ns, to: IpAddr) {
    scope.spawn(move || {
        while witness.runs() {
            let probe = probe_tcp(from, to, TCP, DENIED).unwrap();
            assert_eq!(probe, Probe::TimedOut, "a denied connection to {to}");
            send_udp(from, to, UDP + 1, BURST, 32).unwrap();
            witness.denied.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Receives any denied packet that gets through.
fn listens(ns: &Ns) -> UdpSocket {
    let socket = ns
        .run(|| UdpSocket::bind(("::", UDP + 1)))
        .unwrap()
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn flips(datapath: &mut Datapath, buffers: &[Tables; 2], net: &Net, time: Duration) -> u64 {
    let places = buffers.each_ref().map(|tables| interfaces(net, tables));
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        for (tables, interfaces) in buffers.iter().zip(&places) {
            let applied = datapath.apply(tables, interfaces).unwrap();
            assert!(applied.flipped && applied.failed.is_empty(), "{applied:?}");
            count += 1;
        }
    }
    count
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_packet_is_judged_wrongly_while_policy_flips_between_two_buffers_that_agree_on_it() {
    let buffers = [by_labels(), by_policies()].map(|o| check::compile(&o, Some(NODE)).unwrap());
    assert_buffers_differ(&buffers);
    let net = network(Mode::Routed);
    let places = ["callee", "caller", "plain"].map(|pod| net.pod(pod).unwrap().ns.clone());
    let [callee, caller, plain] = &places;
    let _servers = places.each_ref().map(servers);
    let heard = [callee, plain].map(listens);
    let storm = || {
        let mut node = Node::guard(&net, false);
        node.datapath
            .apply(&buffers[1], &interfaces(&net, &buffers[1]))
            .unwrap();
        let witness = Witness::default();
        let count = thread::scope(|scope| {
            let curtain = Curtain(&witness);
            for v4 in [true, false] {
                allowed(scope, &witness, caller, address("callee", v4));
                allowed(scope, &witness, callee, address("caller", v4));
                denied(scope, &witness, plain, address("callee", v4));
                denied(scope, &witness, caller, address("plain", v4));
            }
            let count = flips(&mut node.datapath, &buffers, &net, lasting(10));
            drop(curtain);
            count
        });
        (count, witness, node.risen())
    };
    let (count, witness, risen) = net.node().run(storm).unwrap();
    let [old, new, denied] =
        [&witness.old, &witness.new, &witness.denied].map(|n| n.load(Ordering::Relaxed));
    eprintln!(
        "{count} flips, {old} echoes on old connections, {new} new ones, {denied} rounds denied"
    );
    assert!(count > 50 && old > 20 && new > 10 && denied > 10);
    for socket in &heard {
        let got = socket.recv_from(&mut [0; 64]);
        assert!(got.is_err(), "a denied datagram arrived: {got:?}");
    }
    let of = |direction, source, destination| {
        let ours = risen.iter().filter(move |(series, _)| {
            (
                series.direction,
                series.source.as_str(),
                series.destination.as_str(),
            ) == (direction, source, destination)
        });
        ours.map(|(_, packets)| packets).sum::<u64>()
    };
    let at_callee = of("ingress", "bank/plain", "bank/callee");
    let at_caller = of("egress", "bank/caller", "bank/plain");
    assert_eq!(
        at_callee + at_caller,
        denied * u64::from(BURST + 1),
        "{risen:?}"
    );
    assert_eq!(
        risen.values().sum::<u64>(),
        at_callee + at_caller,
        "{risen:?}"
    );
}
