//! A node with victims and attackers, with or without the agent.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringfence_tests::agent::Agent;
use ringfence_tests::attack::Outcome;
use ringfence_tests::packets::Frame;
use ringfence_tests::testnet::{Frames, Mode, Net, Ns, Server};
use serde_json::{Value, json};

use crate::wire::Other;

/// The TCP and UDP ports that all servers listen on.
pub(crate) const TCP: u16 = 8080;
pub(crate) const UDP: u16 = 5353;
/// The only port on which `caged` may call the outside's first address.
pub(crate) const OPEN_PORT: u16 = 53;

/// How long to wait for packets that must not arrive.
const SILENCE: Duration = Duration::from_millis(200);
/// How long to wait for packets that must arrive; they may be late on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);
const NODE: &str = "node-1";

/// The node's pods, with the last part of their addresses.
///
/// * `victim` accepts calls from `friend` and `neighbour` on [`TCP`] and [`UDP`], and
///   may call the outside's networks;
/// * `friend`, `neighbour` and `rogue` are not isolated;
/// * `caged` may call every destination except `neighbour` and the outside's first
///   address, on which only [`OPEN_PORT`] is allowed;
/// * `cut` is in quarantine.
const PODS: [(&str, u8); 6] = [
    ("victim", 11),
    ("friend", 12),
    ("caged", 13),
    ("neighbour", 14),
    ("rogue", 15),
    ("cut", 16),
];

/// How pods are attached to the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    Routed,
    Bridge,
}

impl Layout {
    pub(crate) const ALL: [Self; 2] = [Self::Routed, Self::Bridge];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Bridge => "bridge",
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::Routed => Mode::Routed,
            Self::Bridge => Mode::Bridge {
                v4: Ipv4Addr::new(10, 244, 0, 1),
                v4_len: 24,
                v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1),
                v6_len: 64,
            },
        }
    }
}

/// Returns a pod's address by its number.
fn own(v4: bool, number: u8) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(10, 244, 0, number).into(),
        false => Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number.into()).into(),
    }
}

/// Returns an outside address by its number: 1 is the address that `caged` may call on
/// one port only, 9 is `elsewhere`.
fn far(v4: bool, number: u8) -> IpAddr {
    match v4 {
        true => Ipv4Addr::new(203, 0, 113, number).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

/// The attack lab. Fields are dropped in the order of their declaration.
pub(crate) struct Lab {
    /// All servers, and anything else that must live as long as the lab.
    pub(crate) servers: Vec<Server>,
    pub(crate) agent: Agent,
    /// The second node, if there is one; it is guarded whenever this node is.
    pub(crate) other: Option<Other>,
    pub(crate) net: Net,
    pub(crate) layout: Layout,
    pub(crate) manifests: PathBuf,
    firewall: Option<&'static str>,
    patience: Duration,
    /// Kinds of devices, and whether the kernel supports them.
    kinds: BTreeMap<&'static str, bool>,
    next: u16,
}

impl Lab {
    /// Creates the network, writes the manifests and starts servers, but no agent.
    pub(crate) fn open(layout: Layout) -> Result<Self> {
        let outside = [1, 9]
            .into_iter()
            .flat_map(|n| [far(true, n), far(false, n)]);
        let mut builder = Net::builder().mode(layout.mode()).outside(outside);
        for (name, number) in PODS {
            builder = builder.pod(name, [own(true, number), own(false, number)]);
        }
        let net = builder.build()?;
        let manifests = net.dir().join("manifests");
        fs::create_dir(&manifests)?;
        let mut lab = Self {
            servers: Vec::new(),
            agent: Agent::new(&net, NODE, &manifests),
            other: None,
            net,
            layout,
            manifests,
            firewall: None,
            patience: PATIENCE,
            kinds: BTreeMap::new(),
            next: 20_000,
        };
        lab.write("cluster", &lab.objects())?;
        lab.write("policies", &policies())?;
        for name in PODS.map(|pod| pod.0).iter().chain(&["node", "outside"]) {
            let ns = lab.ns(name).clone();
            let server = Server::default().tcp(&ns, TCP, name)?.udp(&ns, UDP)?;
            lab.servers.push(server);
        }
        Ok(lab)
    }

    fn objects(&self) -> Vec<Value> {
        let listed = [true, false]
            .map(|v4| json!({"type": "InternalIP", "address": self.net.node_address(v4)}));
        let mut all = vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": listed}}),
        ];
        all.extend(PODS.map(|(name, number)| pod(name, [own(true, number), own(false, number)])));
        all
    }

    /// Writes `NAME.yaml` atomically; JSON is YAML.
    pub(crate) fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        let draft = self.manifests.join(format!(".{name}"));
        fs::write(&draft, text.join("\n---\n"))?;
        Ok(fs::rename(
            &draft,
            self.manifests.join(format!("{name}.yaml")),
        )?)
    }

    /// Starts the agent with its programs attached in this way.
    pub(crate) fn guard(&mut self, way: &'static str) -> Result<()> {
        let flag = if way == "clsact" { way } else { "best" };
        self.agent.flags = vec!["--attach".to_owned(), flag.to_owned()];
        let pods = PODS.map(|(name, _)| format!("shop/{name}"));
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        self.agent.start(&mut self.net, &pods)?;
        self.other.iter_mut().try_for_each(Other::guard)?;
        self.firewall = Some(way);
        Ok(())
    }

    /// Stops the agent, detaches its programs and deletes their state.
    pub(crate) fn unguard(&mut self) -> Result<()> {
        self.firewall = None;
        self.other.iter_mut().try_for_each(Other::unguard)?;
        self.agent.stop(&mut self.net)?;
        let removed = self.agent.run_on_node(&["uninstall"])?;
        ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.firewall.is_some()
    }

    /// Returns how the agent's programs are attached, or `none`.
    pub(crate) fn firewall(&self) -> &'static str {
        self.firewall.unwrap_or("none")
    }

    /// Reports whether the kernel can create devices of this kind.
    pub(crate) fn has_kind(&mut self, kind: &'static str) -> bool {
        if let Some(known) = self.kinds.get(kind) {
            return *known;
        }
        let probe =
            format!("link add probe9 type dummy\nlink add probe8 link probe9 type {kind}\n");
        let made = self.ns("cut").ip(&probe).is_ok();
        // Deleting this end deletes its peer as well.
        let _ = self.ns("cut").ip("link del probe9\n");
        self.kinds.insert(kind, made);
        made
    }

    /// Announces the outcome of the next attempt, which decides how long to wait.
    pub(crate) fn expects(&mut self, outcome: Outcome) {
        self.patience = match outcome {
            Outcome::Arrives => PATIENCE,
            Outcome::Stopped => SILENCE,
        };
    }

    /// Returns how long to wait for the current attempt.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Returns the namespace of a pod, of the `node` or of the `outside`.
    pub(crate) fn ns(&self, name: &str) -> &Ns {
        match name {
            "node" => self.net.node(),
            "outside" | "elsewhere" => self.net.outside(),
            pod => &self.net.pod(pod).unwrap().ns,
        }
    }

    /// Returns the address of a pod, of the `node`, the first one of the `outside`, or
    /// `elsewhere`, a second one there.
    pub(crate) fn ip(&self, name: &str, v4: bool) -> IpAddr {
        match name {
            "node" => self.net.node_address(v4).unwrap(),
            "outside" => far(v4, 1),
            "elsewhere" => far(v4, 9),
            pod => self.net.pod(pod).unwrap().address(v4).unwrap(),
        }
    }

    /// Returns the same address with a port.
    pub(crate) fn at(&self, name: &str, v4: bool, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(name, v4), port)
    }

    /// Returns an unused port.
    pub(crate) fn port(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    /// Returns eight bytes that no other packet carries.
    pub(crate) fn marker(&mut self) -> [u8; 8] {
        let [high, low] = self.port().to_be_bytes();
        [0xa7, 0x7a, 0xc4, 0x1a, 0xb5, 0x0e, high, low]
    }

    /// Returns the MAC of a device.
    pub(crate) fn mac(&self, place: &str, device: &str) -> Result<[u8; 6]> {
        Frames::mac_of(self.ns(place), device)
    }

    /// Addresses a frame as the sender's `eth0` would: from its own MAC to the next hop's.
    pub(crate) fn addressed(&self, from: &str, frame: &Frame) -> Result<Frame> {
        let source = self.mac(from, "eth0")?;
        let hop = self.hop(from, frame.destination)?;
        Ok(frame.with(|f| (f.source_mac, f.destination_mac) = (source, hop)))
    }

    fn hop(&self, from: &str, to: IpAddr) -> Result<[u8; 6]> {
        if matches!(from, "outside" | "elsewhere") {
            return self.mac("node", "eth0");
        }
        if self.layout == Layout::Routed {
            return Ok(self.net.pod(from)?.host_mac);
        }
        let mut pods = self.net.pods().iter();
        match pods.find(|pod| pod.addresses().any(|own| own == to)) {
            Some(pod) => Ok(pod.mac),
            None => self.mac("node", "cni0"),
        }
    }

    /// Sends a frame from `eth0` of a namespace, with the correct MACs.
    pub(crate) fn send(&self, from: &str, frame: &Frame) -> Result<()> {
        let frame = self.addressed(from, frame)?;
        Frames::open(self.ns(from), "eth0")?.send(&frame.bytes())
    }

    /// Runs an action. Returns whether a frame with the marker then arrives on `eth0`
    /// of the namespace.
    pub(crate) fn lands(
        &self,
        place: &str,
        marker: &[u8],
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Outcome> {
        self.shows(place, |frame| holds(frame, marker), act)
    }

    /// Does the same for frames that satisfy a predicate.
    pub(crate) fn shows(
        &self,
        place: &str,
        wanted: impl Fn(&[u8]) -> bool,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Outcome> {
        let watch = Frames::open(self.ns(place), "eth0")?;
        act()?;
        let seen = watch.receive(self.patience, wanted)?;
        Ok(Outcome::arrives(seen.is_some()))
    }
}

/// Reports whether a frame contains these bytes.
pub(crate) fn holds(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|part| part == marker)
}

fn pod(name: &str, ips: [IpAddr; 2]) -> Value {
    let listed = ips.map(|ip| json!({"ip": ip}));
    let mut labels = json!({"app": name});
    if name == "cut" {
        labels["ringfence.dev/quarantine"] = json!("true");
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-of-{name}"), "labels": labels},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": format!("example.com/{name}")}]},
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": listed},
    })
}

fn policies() -> Vec<Value> {
    let policy = |name: &str, spec: Value| {
        let mut policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": name}, "spec": spec,
        });
        policy["spec"]["podSelector"] = json!({"matchLabels": {"app": name}});
        policy
    };
    let callers =
        ["friend", "neighbour"].map(|app| json!({"podSelector": {"matchLabels": {"app": app}}}));
    let one = |ip: IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    let block = |v4: bool, all: &str| {
        let except = [own(v4, 14), far(v4, 1)].map(one);
        json!({"ipBlock": {"cidr": all, "except": except}})
    };
    let first = [true, false].map(|v4| json!({"ipBlock": {"cidr": one(far(v4, 1))}}));
    let both =
        |port: u16| json!([{"protocol": "UDP", "port": port}, {"protocol": "TCP", "port": port}]);
    vec![
        policy(
            "victim",
            json!({
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{
                    "from": callers,
                    "ports": [{"protocol": "TCP", "port": TCP}, {"protocol": "UDP", "port": UDP}],
                }],
                "egress": [{"to": [
                    {"ipBlock": {"cidr": "203.0.113.0/24"}},
                    {"ipBlock": {"cidr": "2001:db8::/32"}},
                ]}],
            }),
        ),
        policy(
            "caged",
            json!({
                "policyTypes": ["Egress"],
                "egress": [
                    {"to": [block(true, "0.0.0.0/0"), block(false, "::/0")]},
                    {"to": first, "ports": both(OPEN_PORT)},
                ],
            }),
        ),
    ]
}
