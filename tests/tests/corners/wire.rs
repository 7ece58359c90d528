//! A guarded node with four pods, changing policies, and packets that show which
//! policies are in force.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ringfence_tests::agent::Agent;
use ringfence_tests::testnet::{
    Dnat, Net, Ns, Probe, Server, arrives, ping, probe_tcp, probe_udp, sctp_init,
};
use serde_json::{Value, json};

/// Less than a second, so no SYN is retransmitted.
const DENIED: Duration = Duration::from_millis(250);
/// An allowed packet may be late on a busy machine.
const ALLOWED: Duration = Duration::from_secs(3);
const NODE: &str = "node-1";
/// The Service's addresses.
const SERVICE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 96, 0, 7),
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 7),
);

/// Source, destination, traffic, and whether it gets through. The traffic is
/// `TCP/8080`, `ICMP`, or the number of a protocol without ports.
pub(crate) type Row<'a> = (&'a str, &'a str, &'a str, bool);

/// Returns a pod as the cluster knows it; the number is the last part of its addresses.
pub(crate) fn pod(name: &str, number: u8, labels: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let [v4, v6] = addresses(number);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-of-{name}"), "labels": labels},
        "spec": {"nodeName": NODE, "containers": []},
        "status": {"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]},
    })
}

/// Returns both addresses of a number.
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number.into());
    [Ipv4Addr::new(10, 244, 0, number).into(), v6.into()]
}

/// Adds a TCP port named `http` to the pod.
pub(crate) fn with_http(mut pod: Value, number: u16) -> Value {
    pod["spec"]["containers"] = json!([{"ports": [{"name": "http", "containerPort": number}]}]);
    pod
}

/// Returns a NetworkPolicy of namespace `shop`, for `app` if it isn't empty.
pub(crate) fn policy(name: &str, app: &str, mut spec: Value) -> Value {
    if !app.is_empty() {
        spec["podSelector"] = json!({"matchLabels": {"app": app}});
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    })
}

/// Returns a policy that isolates both directions and allows nothing.
pub(crate) fn closed(app: &str) -> Value {
    policy("closed", app, json!({"policyTypes": ["Ingress", "Egress"]}))
}

/// Pods `shop/server`, `shop/client`, `shop/other` and `far/client`, numbers 10 to 13,
/// in the network as `server`, `client`, `other` and `far`. Fields are dropped in the
/// order of their declaration.
pub(crate) struct Wire {
    servers: Vec<Server>,
    pub(crate) agent: Agent,
    pub(crate) net: Net,
    manifests: PathBuf,
}

impl Wire {
    /// Sets up the network: all pods serve TCP 8080 and 8081 and UDP 5353 and 5354, and
    /// none is isolated.
    pub(crate) fn open() -> Self {
        let pods = [("server", 10), ("client", 11), ("other", 12), ("far", 13)];
        let mut builder = Net::builder();
        for (name, number) in pods {
            builder = builder.pod(name, addresses(number));
        }
        let net = builder.build().unwrap();
        let manifests = net.dir().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let mut wire = Self {
            servers: Vec::new(),
            agent: Agent::new(&net, NODE, &manifests),
            manifests,
            net,
        };
        wire.namespaces(json!({}), json!({"team": "x"}));
        let server = pod("shop/server", 10, json!({"app": "server"}));
        let client = pod("shop/client", 11, json!({"app": "client"}));
        wire.write("server", &[with_http(server, 8080)]);
        wire.write("client", &[with_http(client, 8081)]);
        wire.write("other", &[pod("shop/other", 12, json!({"app": "other"}))]);
        wire.write("far", &[pod("far/client", 13, json!({"app": "client"}))]);
        for name in ["server", "client", "other", "far", "node", "outside"] {
            wire.serve(name);
        }
        let names = ["shop/server", "shop/client", "shop/other", "far/client"];
        wire.agent.start(&mut wire.net, &names).unwrap();
        wire
    }

    /// Serves all the ports in a namespace.
    pub(crate) fn serve(&mut self, name: &str) {
        let ns = self.ns(name).unwrap().clone();
        let server = Server::default().tcp(&ns, 8080, name).unwrap();
        let server = server.tcp(&ns, 8081, name).unwrap();
        let server = server.udp(&ns, 5353).unwrap().udp(&ns, 5354).unwrap();
        self.servers.push(server);
    }

    /// Acts as kube-proxy would for a Service whose only backend is the server: port 90
    /// is the pod's 8080.
    pub(crate) fn service(&self, masquerade: bool) {
        let rule = |(address, backend): (IpAddr, IpAddr)| Dnat {
            address,
            protocol: "tcp",
            port: 90,
            to: vec![SocketAddr::new(backend, 8080)],
            masquerade,
        };
        let [v4, v6] = addresses(10);
        let rules = [(SERVICE.0.into(), v4), (SERVICE.1.into(), v6)];
        self.net.dnat(&rules.map(rule)).unwrap();
    }

    /// Writes the Node and both Namespaces, with these labels of `shop` and `far`.
    pub(crate) fn namespaces(&self, shop: Value, far: Value) {
        let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let listed = [true, false]
            .map(|v4| json!({"type": "InternalIP", "address": self.net.node_address(v4)}));
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": listed}});
        self.write(
            "cluster",
            &[namespace("shop", shop), namespace("far", far), node],
        );
    }

    /// Writes `NAME.yaml` atomically; JSON is YAML.
    pub(crate) fn write(&self, name: &str, objects: &[Value]) {
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        let draft = self.manifests.join(format!(".{name}"));
        fs::write(&draft, text.join("\n---\n")).unwrap();
        fs::rename(&draft, self.manifests.join(format!("{name}.yaml"))).unwrap();
    }

    /// Returns once the written objects are in force.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.agent.wait_for("shop/server").unwrap();
    }

    /// Replaces the policies in force with these, and tries the rows.
    #[track_caller]
    pub(crate) fn under(&self, policies: &[Value], rows: &[Row<'_>]) {
        // A file without objects would keep its last valid ones.
        let marker = policy("none", "nobody", json!({}));
        self.write("policies", &[policies, &[marker]].concat());
        self.settle();
        self.sees(rows);
    }

    /// Puts policies in force that allow these peers to call the server on all ports.
    #[track_caller]
    pub(crate) fn from(&self, peers: Value, rows: &[Row<'_>]) {
        let rule = json!({"ingress": [{"from": peers}]});
        self.under(&[policy("server", "server", rule)], rows);
    }

    /// Tries all rows over both families at once and fails with the differences.
    #[track_caller]
    pub(crate) fn sees(&self, rows: &[Row<'_>]) {
        let tried: Vec<String> = thread::scope(|scope| {
            let both = rows.iter().flat_map(|row| [(row, true), (row, false)]);
            let threads: Vec<_> = both
                .map(|(row, v4)| scope.spawn(move || self.wrong(row, v4)))
                .collect();
            let joined = threads.into_iter().map(|t| t.join().unwrap());
            joined.flatten().collect()
        });
        assert!(tried.is_empty(), "not as expected: {tried:#?}");
    }

    fn wrong(&self, row: &Row<'_>, v4: bool) -> Option<String> {
        let (from, to, what, allowed) = *row;
        let family = if v4 { "IPv4" } else { "IPv6" };
        let said = match self.passes((from, to), what, v4, allowed) {
            Ok(passed) if passed == allowed => return None,
            Ok(true) => "passes".to_owned(),
            Ok(false) => "is dropped".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        Some(format!("{from} to {to} on {what} over {family}: {said}"))
    }

    fn passes(&self, ends: (&str, &str), what: &str, v4: bool, allowed: bool) -> Result<bool> {
        static NEXT: AtomicU16 = AtomicU16::new(10_000);
        let patience = if allowed { ALLOWED } else { DENIED };
        let (from, to) = (self.ns(ends.0)?, self.address(ends.1, v4)?);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (protocol, port) = what.split_once('/').unwrap_or((what, "0"));
        let port: u16 = port.parse()?;
        let probe = match protocol {
            "TCP" => probe_tcp(from, to, port, patience)?,
            "UDP" => probe_udp(from, to, port, patience)?,
            "ICMP" => ping(from, to, patience)?,
            raw => {
                let ends = (from, self.ns(ends.1)?);
                let init = sctp_init(number, port);
                let protocol = if raw == "SCTP" { 132 } else { raw.parse()? };
                return arrives(ends, to, protocol, &init, patience);
            }
        };
        match probe {
            // The call was answered, if only by a reset.
            Probe::Open | Probe::Refused => Ok(true),
            Probe::TimedOut => Ok(false),
            Probe::Unreachable => bail!("there is no way there"),
        }
    }

    fn ns(&self, name: &str) -> Result<&Ns> {
        match name {
            "node" => Ok(self.net.node()),
            "outside" => Ok(self.net.outside()),
            pod => Ok(&self.net.pod(pod)?.ns),
        }
    }

    fn address(&self, name: &str, v4: bool) -> Result<IpAddr> {
        let address = match name {
            "node" => self.net.node_address(v4),
            "outside" => self.net.outside_address(v4),
            "service" if v4 => Some(SERVICE.0.into()),
            "service" => Some(SERVICE.1.into()),
            pod => self.net.pod(pod)?.address(v4),
        };
        address.with_context(|| format!("{name} has no address"))
    }
}
