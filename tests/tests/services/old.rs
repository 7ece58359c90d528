//! Connections older than the hooks, between pods of one node and of two: a denied
//! connection ends, whichever side sends first, and an allowed one continues.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::cluster::{Cluster, bridge};
use ringfence_tests::testnet::{Mode, Ns};
use serde_json::{Value, json};

/// Data may be late on a busy machine: TCP retransmits within that time.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for data that must not arrive.
const SILENCE: Duration = Duration::from_millis(400);
/// No other server listens on this port.
const PORT: u16 = 8080;

/// Clients and servers, and whether policy allows the call.
const CALLS: [(&str, &str, bool); 8] = [
    ("caller", "good", true),
    ("caller", "bad", false),
    ("caller", "away-good", true),
    ("caller", "away-bad", false),
    ("good", "free", true),
    ("bad", "free", false),
    ("away-good", "free", true),
    ("away-bad", "free", false),
];

/// Both ends of a connection.
enum Ends {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket),
}

impl Ends {
    fn tcp(client: &Ns, server: &Ns, from: SocketAddr, to: SocketAddr) -> Self {
        let listener = server.run(|| TcpListener::bind(to)).unwrap().unwrap();
        let stream = client.run(|| connect(from, to)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        for end in [&stream, &accepted] {
            end.set_nodelay(true).unwrap();
        }
        Self::Tcp(stream, accepted)
    }

    fn udp(client: &Ns, server: &Ns, from: SocketAddr, to: SocketAddr) -> Self {
        let asks = client
            .run(|| UdpSocket::bind((from.ip(), 0)))
            .unwrap()
            .unwrap();
        let answers = server.run(|| UdpSocket::bind(to)).unwrap().unwrap();
        asks.connect(to).unwrap();
        answers.connect(asks.local_addr().unwrap()).unwrap();
        Self::Udp(asks, answers)
    }

    /// Sends data from the server, whether or not it arrives.
    fn server_speaks(&mut self) {
        match self {
            Self::Tcp(_, server) => server.write_all(b"tick").unwrap(),
            Self::Udp(_, server) => drop(server.send(b"tick").unwrap()),
        }
    }

    /// Reports whether data from the client arrives.
    fn client_is_heard(&mut self, patience: Duration) -> bool {
        let mut word = [0; 4];
        match self {
            Self::Tcp(client, server) => {
                client.write_all(b"word").unwrap();
                server.set_read_timeout(Some(patience)).unwrap();
                server.read_exact(&mut word).is_ok()
            }
            Self::Udp(client, server) => {
                client.send(b"word").unwrap();
                server.set_read_timeout(Some(patience)).unwrap();
                server.recv(&mut word).is_ok()
            }
        }
    }
}

/// Connects from the pod's own address: the other node's pods share a namespace.
fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket::socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    socket::bind(raw, &SockaddrStorage::from(from)).unwrap();
    socket::connect(raw, &SockaddrStorage::from(to)).unwrap();
    socket.into()
}

/// A connection and its name.
struct Talk {
    name: String,
    allowed: bool,
    ends: Ends,
}

/// Returns the server's address, with a port per connection.
fn place(cluster: &Cluster, name: &str, v4: bool, port: u16) -> SocketAddr {
    SocketAddr::new(cluster.backend(name, v4).ip(), port)
}

fn ns<'c>(cluster: &'c Cluster, name: &str) -> &'c Ns {
    cluster.ns(if name.starts_with("away") {
        "outside"
    } else {
        name
    })
}

/// Returns policies that close the client's egress, or the server's ingress, except for
/// `tier: good`.
fn policies() -> [Value; 2] {
    let good = json!([{"podSelector": {"matchLabels": {"tier": "good"}}}]);
    let ports = json!([{"port": 1024, "endPort": 32000}, {"protocol": "UDP", "port": 1024, "endPort": 32000}]);
    let policy = |app: &str, kind: &str, rule: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": format!("old-{app}")},
            "spec": {
                "podSelector": {"matchLabels": {"app": app}}, "policyTypes": [kind],
                kind.to_lowercase(): [rule],
            },
        })
    };
    [
        policy("caller", "Egress", json!({"to": good, "ports": ports})),
        policy("free", "Ingress", json!({"from": good, "ports": ports})),
    ]
}

/// Sets up a node without hooks, with connections between all pairs.
fn before_the_hooks(mode: Mode) -> (Cluster, Vec<Talk>) {
    let mut cluster = Cluster::open(mode);
    cluster.write("old", &policies());
    cluster.agent.stop(&mut cluster.net).unwrap();
    let removed = cluster.agent.run(&["uninstall"]).unwrap();
    assert_eq!(removed.code, 0, "{removed:?}");
    let mut talks = Vec::new();
    let mut port = PORT + 100;
    for (client, server, allowed) in CALLS {
        for v4 in [true, false] {
            for open in [Ends::tcp, Ends::udp] {
                port += 1;
                let to = place(&cluster, server, v4, port);
                let from = place(&cluster, client, v4, 0);
                let mut ends = open(ns(&cluster, client), ns(&cluster, server), from, to);
                let name = format!("{client} to {server} at {to}");
                assert!(ends.client_is_heard(PATIENCE), "{name}");
                talks.push(Talk {
                    name,
                    allowed,
                    ends,
                });
            }
        }
    }
    (cluster, talks)
}

const READY: [&str; 4] = ["shop/caller", "shop/good", "shop/bad", "shop/free"];

/// Checks that each connection continues or ends as policy requires, after its server
/// has sent data.
fn goes_on_as_allowed(talks: &mut [Talk]) {
    for talk in talks {
        talk.ends.server_speaks();
        std::thread::sleep(Duration::from_millis(20));
        let patience = if talk.allowed { PATIENCE } else { SILENCE };
        let heard = talk.ends.client_is_heard(patience);
        assert_eq!(heard, talk.allowed, "{}", talk.name);
    }
}

fn ends_where_forbidden(mode: Mode, flags: [&str; 2]) {
    let (mut cluster, mut talks) = before_the_hooks(mode);
    cluster.agent.flags = flags.map(str::to_owned).to_vec();
    cluster.agent.start(&mut cluster.net, &READY).unwrap();
    goes_on_as_allowed(&mut talks);
    goes_on_as_allowed(&mut talks);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_forbidden_connection_older_than_the_hooks_ends_on_a_routed_node() {
    ends_where_forbidden(Mode::Routed, ["--pickup", "0"]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_forbidden_connection_older_than_the_hooks_ends_on_a_bridge() {
    ends_where_forbidden(bridge(), ["--pickup", "0"]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn so_it_does_inside_of_the_pick_up_window() {
    for mode in [Mode::Routed, bridge()] {
        ends_where_forbidden(mode, ["--pickup", "60"]);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn audit_counts_old_connections_and_enforcement_ends_them() {
    let (mut cluster, mut talks) = before_the_hooks(Mode::Routed);
    cluster.agent.flags = ["--pickup", "0", "--mode", "audit"]
        .map(str::to_owned)
        .to_vec();
    cluster.agent.start(&mut cluster.net, &READY).unwrap();
    for talk in &mut talks {
        talk.ends.server_speaks();
        assert!(talk.ends.client_is_heard(PATIENCE), "{}", talk.name);
    }
    let drops = cluster.agent.json(&["drops"]).unwrap();
    let rows = drops.as_array().unwrap();
    for (client, server, allowed) in CALLS {
        for protocol in ["tcp", "udp"] {
            let counted = rows.iter().any(|row| {
                row["source"] == format!("shop/{client}")
                    && row["destination"] == format!("shop/{server}")
                    && row["protocol"] == protocol
                    && row["audited"] == true
            });
            assert_eq!(
                counted, !allowed,
                "{client} to {server}, {protocol}: {drops}"
            );
        }
    }
    cluster.agent.stop(&mut cluster.net).unwrap();
    cluster.agent.flags = ["--pickup", "0"].map(str::to_owned).to_vec();
    cluster.agent.start(&mut cluster.net, &READY).unwrap();
    goes_on_as_allowed(&mut talks);
}
