//! A guarded node with Services, and backends on it and on another node.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ringfence_tests::agent::Agent;
use ringfence_tests::testnet::{Dnat, Mode, Net, Ns, Probe, Server, call_tcp};
use serde_json::{Value, json};

/// Less than a second, so no SYN is retransmitted: a dropped call is one packet.
const DENIED: Duration = Duration::from_millis(250);
/// An allowed call may be late on a busy machine.
const ALLOWED: Duration = Duration::from_secs(3);
const NODE: &str = "node-1";
/// The port of every Service here, and of the listeners behind it.
pub(crate) const PORT: u16 = 90;
pub(crate) const TARGET: u16 = 8080;
/// The Service's port on every node.
pub(crate) const NODE_PORT: u16 = 30090;

/// The kind of address that the Service is called by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Front {
    Cluster,
    External,
    Balancer,
    NodePort,
}

impl Front {
    pub(crate) const ALL: [Self; 4] = [
        Self::Cluster,
        Self::External,
        Self::Balancer,
        Self::NodePort,
    ];
}

/// A cluster of namespace `shop`, with pods
///
/// * `caller`, whose egress is isolated: it may call `tier: good` on TCP 8080;
/// * `good` and `bad`, backends of both tiers; `free`, which isn't isolated;
/// * `away-good` and `away-bad`, backends on another node, which is the outside.
///
/// All pods except the caller listen on 8080 and send their own name. Fields are
/// dropped in the order of their declaration.
pub(crate) struct Cluster {
    servers: Vec<Server>,
    pub(crate) agent: Agent,
    pub(crate) net: Net,
    manifests: PathBuf,
}

/// Pods of this node, with the last part of their addresses.
const PODS: [(&str, u8); 4] = [("caller", 11), ("good", 12), ("bad", 13), ("free", 14)];
/// Pods of the other node.
const AWAY: [(&str, u8); 2] = [("away-good", 9), ("away-bad", 10)];

fn own(v4: bool, number: u8) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(10, 244, 0, number).into(),
        false => Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number.into()).into(),
    }
}

fn away(v4: bool, number: u8) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(10, 245, 0, number).into(),
        false => Ipv6Addr::new(0xfd00, 0x10, 0x245, 0, 0, 0, 0, number.into()).into(),
    }
}

pub(crate) fn bridge() -> Mode {
    Mode::Bridge {
        v4: Ipv4Addr::new(10, 244, 0, 1),
        v4_len: 24,
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1),
        v6_len: 64,
    }
}

impl Cluster {
    /// Creates the network, writes the manifests, starts servers and agent.
    pub(crate) fn open(mode: Mode) -> Self {
        let outside = [
            Ipv4Addr::new(203, 0, 113, 1).into(),
            "2001:db8::1".parse().unwrap(),
            // No workload has these addresses; the first two are the other node's.
            Ipv4Addr::new(203, 0, 113, 77).into(),
            "2001:db8:99::77".parse().unwrap(),
        ];
        let remote = AWAY
            .into_iter()
            .flat_map(|(_, n)| [away(true, n), away(false, n)]);
        let mut builder = Net::builder()
            .mode(mode)
            .outside(outside.into_iter().chain(remote));
        for (name, number) in PODS {
            builder = builder.pod(name, [own(true, number), own(false, number)]);
        }
        let net = builder.build().unwrap();
        let manifests = net.dir().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let mut cluster = Self {
            servers: Vec::new(),
            agent: Agent::new(&net, NODE, &manifests),
            manifests,
            net,
        };
        cluster.write("cluster", &cluster.objects());
        cluster.write("services", &[service("web", "10.96.0.7", "fd00:10:96::7")]);
        for name in ["good", "bad", "free"] {
            cluster.serve(name, TARGET);
        }
        let server = away_servers(cluster.net.outside());
        cluster.servers.push(server);
        let pods = ["shop/caller", "shop/good", "shop/bad", "shop/free"];
        cluster.agent.start(&mut cluster.net, &pods).unwrap();
        cluster
    }

    fn objects(&self) -> Vec<Value> {
        let listed = [true, false]
            .map(|v4| json!({"type": "InternalIP", "address": self.net.node_address(v4)}));
        let mut all = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": listed}}),
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"},
                "status": {"addresses": [{"type": "InternalIP", "address": self.net.outside_address(true)}]}}),
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "shop", "name": "caller"},
                "spec": {
                    "podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"],
                    "egress": [{
                        "to": [{"podSelector": {"matchLabels": {"tier": "good"}}}],
                        "ports": [{"port": TARGET}],
                    }],
                },
            }),
        ];
        all.extend(PODS.map(|(name, n)| pod(name, NODE, [own(true, n), own(false, n)])));
        all.extend(AWAY.map(|(name, n)| pod(name, "node-2", [away(true, n), away(false, n)])));
        all
    }

    /// Serves TCP in a pod; the banner is the pod's name.
    pub(crate) fn serve(&mut self, name: &str, port: u16) {
        let ns = self.ns(name).clone();
        let server = Server::default().tcp(&ns, port, name).unwrap();
        self.servers.push(server);
    }

    /// Returns the namespace of a pod, of the `node` or of the `outside`.
    pub(crate) fn ns(&self, name: &str) -> &Ns {
        match name {
            "node" => self.net.node(),
            "outside" => self.net.outside(),
            pod => &self.net.pod(pod).unwrap().ns,
        }
    }

    /// Writes `NAME.yaml` atomically; JSON is YAML.
    pub(crate) fn write(&self, name: &str, objects: &[Value]) {
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        let draft = self.manifests.join(format!(".{name}"));
        fs::write(&draft, text.join("\n---\n")).unwrap();
        fs::rename(&draft, self.manifests.join(format!("{name}.yaml"))).unwrap();
    }

    /// Adds a pod to the network. Returns its host-side device.
    pub(crate) fn add_pod(&mut self, name: &str, number: u8) -> String {
        let addresses = [own(true, number), own(false, number)];
        self.net.add_pod(name, &addresses).unwrap().host_device
    }

    /// Returns the manifest of a pod on this node.
    pub(crate) fn pod(&self, name: &str, number: u8) -> Value {
        pod(name, NODE, [own(true, number), own(false, number)])
    }

    /// Returns the address and port of one of the Service's fronts.
    pub(crate) fn front(&self, front: Front, v4: bool) -> SocketAddr {
        let text = match (front, v4) {
            (Front::NodePort, _) => {
                return SocketAddr::new(self.net.node_address(v4).unwrap(), NODE_PORT);
            }
            (Front::Cluster, true) => "10.96.0.7",
            (Front::Cluster, false) => "fd00:10:96::7",
            (Front::External, true) => "198.51.100.7",
            (Front::External, false) => "2001:db8:1::7",
            (Front::Balancer, true) => "198.51.100.8",
            (Front::Balancer, false) => "2001:db8:1::8",
        };
        SocketAddr::new(text.parse().unwrap(), PORT)
    }

    /// Returns a backend's own address and port.
    pub(crate) fn backend(&self, name: &str, v4: bool) -> SocketAddr {
        let number = |all: &[(&str, u8)]| all.iter().find(|one| one.0 == name).map(|one| one.1);
        let ip = match (number(&PODS), number(&AWAY)) {
            (Some(n), _) => own(v4, n),
            (None, Some(n)) => away(v4, n),
            (None, None) => panic!("no backend {name}"),
        };
        SocketAddr::new(ip, TARGET)
    }

    /// Forwards all fronts of the Service to these backends, in turn.
    pub(crate) fn forward(&self, backends: &[&str], masquerade: bool) {
        let both = [true, false].into_iter();
        let fronts = both.flat_map(|v4| Front::ALL.map(|front| (front, v4)));
        let rules = fronts.map(|(front, v4)| {
            let at = self.front(front, v4);
            Dnat {
                address: at.ip(),
                protocol: "tcp",
                port: at.port(),
                to: backends.iter().map(|name| self.backend(name, v4)).collect(),
                masquerade,
            }
        });
        self.net.dnat(&rules.collect::<Vec<_>>()).unwrap();
    }

    /// Sets whether frames on the bridge pass netfilter too.
    pub(crate) fn bridge_netfilter(&self, on: bool) {
        for family in ["iptables", "ip6tables"] {
            let name = format!("net/bridge/bridge-nf-call-{family}");
            let value = if on { "1" } else { "0" };
            self.net.node().sysctl(&name, value).unwrap();
        }
    }

    /// Moves the other node's pods behind a VXLAN device.
    pub(crate) fn overlay(&self) {
        let (node, outside) = (
            self.net.node_address(true).unwrap(),
            self.net.outside_address(true).unwrap(),
        );
        let device = |remote: IpAddr| {
            format!(
                "link add vx0 type vxlan id 7 remote {remote} dstport 8472 dev eth0\n\
                 link set vx0 up\n"
            )
        };
        let (mut here, mut there) = (device(outside), device(node));
        for (_, number) in AWAY {
            for v4 in [true, false] {
                let to = away(v4, number);
                let length = if v4 { 32 } else { 128 };
                here.push_str(&format!("route replace {to}/{length} dev vx0\n"));
                let nodad = if v4 { "" } else { " nodad" };
                there.push_str(&format!(
                    "addr del {to}/{length} dev eth0\naddr add {to}/{length} dev vx0{nodad}\n"
                ));
            }
        }
        self.net.node().ip(&here).unwrap();
        self.net.outside().ip(&there).unwrap();
    }

    /// Makes one call with the long timeout. Returns which pod answered, or how the
    /// call ended.
    pub(crate) fn call(&self, from: &str, to: SocketAddr) -> Result<String, Probe> {
        call_tcp(self.ns(from), None, to, ALLOWED).unwrap()
    }

    /// Asserts that a call is answered. Returns which pod answered.
    #[track_caller]
    pub(crate) fn answers(&self, from: &str, to: SocketAddr) -> String {
        match self.call(from, to) {
            Ok(banner) => banner,
            Err(probe) => panic!("{from} to {to}: {probe}"),
        }
    }

    /// Reports whether a call gets through within the short timeout.
    pub(crate) fn reaches(&self, from: &str, to: SocketAddr) -> bool {
        call_tcp(self.ns(from), None, to, DENIED).unwrap().is_ok()
    }

    /// Asserts that a call is not answered. Returns how it ended.
    #[track_caller]
    pub(crate) fn fails(&self, from: &str, to: SocketAddr) -> Probe {
        match call_tcp(self.ns(from), None, to, DENIED).unwrap() {
            Ok(banner) => panic!("{from} to {to}: answered by {banner}"),
            Err(probe) => probe,
        }
    }

    /// Asserts that a call is dropped, as one packet of the caller's egress to this
    /// backend, and that nothing else is dropped.
    #[track_caller]
    pub(crate) fn is_denied(&self, to: SocketAddr, backend: &str) {
        self.is_denied_for("policy", to, backend);
    }

    /// Does the same for another drop reason.
    #[track_caller]
    pub(crate) fn is_denied_for(&self, reason: &str, to: SocketAddr, backend: &str) {
        let before = self.drops();
        assert_eq!(self.fails("caller", to), Probe::TimedOut, "{to}");
        let mut expected = before;
        let key = format!("shop/caller shop/{backend} egress {reason} tcp");
        *expected.entry(key).or_default() += 1;
        assert_eq!(self.drops(), expected, "drops after a call of {to}");
    }

    /// Returns all drops so far.
    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        let drops = self.agent.drops().unwrap();
        drops
            .into_iter()
            .map(|(key, n)| (key.join(" "), n))
            .collect()
    }
}

/// Both remote pods live in one namespace: the banner only shows that the other node
/// was reached.
fn away_servers(outside: &Ns) -> Server {
    Server::default().tcp(outside, TARGET, "away").unwrap()
}

/// Returns a pod whose service and `tier` label are derived from its name.
fn pod(name: &str, node: &str, ips: [IpAddr; 2]) -> Value {
    let tier = name.rsplit('-').next().unwrap_or(name);
    let listed = ips.map(|ip| json!({"ip": ip}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"),
            "labels": {"app": name, "tier": tier, "set": "web"},
        },
        "spec": {"nodeName": node, "containers": [{"ports": [{"name": "http", "containerPort": TARGET}]}]},
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": listed},
    })
}

/// Returns a Service on all kinds of addresses; its target port is given by name.
pub(crate) fn service(name: &str, v4: &str, v6: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "type": "LoadBalancer", "selector": {"set": "web"},
            "clusterIP": v4, "clusterIPs": [v4, v6],
            "externalIPs": ["198.51.100.7", "2001:db8:1::7"],
            "ports": [{"port": PORT, "targetPort": "http", "nodePort": NODE_PORT}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}, {"ip": "2001:db8:1::8"}]}},
    })
}
