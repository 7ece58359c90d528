//! Who can reach whom.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ringfence_ebpf::{
    abi::{Addr, Direction, EndpointWorld, Grant, PortKey, World},
    verdict::{self, PolicyTables},
};
use serde::Serialize;

use crate::{
    index::{Index, PodEntry, PodKey, Scope},
    ports::PortSpec,
    tables::{EndpointPolicy, Tables},
};

/// One row per source, one cell per destination, one character per port.
pub type Cells = BTreeMap<String, BTreeMap<String, String>>;

/// For each source and destination pod one character a port: `.` allowed, `X` denied.
///
/// What a staged policy would deny counts as allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// As asked for.
    pub ports: Vec<String>,
    /// `namespace/name`, sorted.
    pub pods: Vec<String>,
    /// What the destination's ingress allows.
    pub ingress: Cells,
    /// What the source's egress allows.
    pub egress: Cells,
    /// What both allow.
    pub allowed: Cells,
}

impl Matrix {
    /// Computes the matrix of all live pods that aren't in a node's network,
    /// through the very decision that the datapath takes. Pods without an
    /// address, and workloads that stand for their pods, get one of 240.0.0.0/4.
    pub fn compute(index: &Index, ports: &[PortSpec]) -> Self {
        let index = index.with_made_up_addresses();
        let tables = index.compile(&Scope::Everything);
        let known = Known::new(&tables);
        let pods = pods(&index);
        let mut matrix = Self {
            ports: ports.iter().map(ToString::to_string).collect(),
            ..Self::default()
        };
        for from in &pods {
            let [mut ingress, mut egress, mut allowed] = [(); 3].map(|()| BTreeMap::new());
            for to in &pods {
                let cells = ports.iter().map(|port| known.pair(from, to, port));
                let cells: Vec<(bool, bool)> = cells.collect();
                let line = |f: fn(&(bool, bool)) -> bool| -> String {
                    cells.iter().map(|c| if f(c) { '.' } else { 'X' }).collect()
                };
                ingress.insert(to.name.clone(), line(|c| c.0));
                egress.insert(to.name.clone(), line(|c| c.1));
                allowed.insert(to.name.clone(), line(|c| c.0 && c.1));
            }
            matrix.ingress.insert(from.name.clone(), ingress);
            matrix.egress.insert(from.name.clone(), egress);
            matrix.allowed.insert(from.name.clone(), allowed);
        }
        matrix.pods = pods.into_iter().map(|pod| pod.name).collect();
        matrix.pods.sort();
        matrix
    }
}

/// A pod of the matrix.
struct Row {
    key: PodKey,
    /// `namespace/name`; where a workload and a pod share it, with the workload's kind.
    name: String,
    addresses: Vec<IpAddr>,
}

fn pods(index: &Index) -> Vec<Row> {
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for (_, pod) in index.live() {
        *times.entry(pod.key().to_string()).or_default() += 1;
    }
    let row = |(id, pod): (_, &PodEntry)| {
        let key = pod.key();
        let name = key.to_string();
        let name = match &pod.stand_in {
            Some(kind) if times[&name] > 1 => format!("{name} ({kind})"),
            _ => name,
        };
        Row {
            key,
            name,
            addresses: index.addresses_of(id),
        }
    };
    let mut rows: Vec<Row> = index.live().map(row).collect();
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

/// The address of `of` that a packet between the two would carry: of a family that both have.
pub(crate) fn address_between(of: &[IpAddr], peer: &[IpAddr]) -> Option<Addr> {
    let shared = |ip: &&IpAddr| peer.iter().any(|p| p.is_ipv4() == ip.is_ipv4());
    let ip = of.iter().find(shared).or(of.first())?;
    Some(Addr::from(*ip))
}

/// Tables whose look-ups by address are done once.
struct Known<'t> {
    tables: &'t Tables,
    classes: HashMap<Addr, u32>,
}

impl<'t> Known<'t> {
    fn new(tables: &'t Tables) -> Self {
        let addresses = tables.identities.keys();
        let classes = addresses.map(|a| (*a, tables.class_of(a))).collect();
        Self { tables, classes }
    }

    /// Whether ingress and egress allow.
    fn pair(&self, from: &Row, to: &Row, port: &PortSpec) -> (bool, bool) {
        if from.key == to.key {
            return (true, true);
        }
        let side = |of: &Row, peer: &Row, direction| {
            let endpoint = self.tables.endpoints.get(&of.key);
            let peer = address_between(&peer.addresses, &of.addresses);
            endpoint
                .zip(peer)
                .is_some_and(|(e, peer)| allows(self, e, direction, &peer, port))
        };
        (
            side(to, from, Direction::Ingress),
            side(from, to, Direction::Egress),
        )
    }
}

fn allows<T: PolicyTables>(
    tables: &T,
    endpoint: &EndpointPolicy,
    direction: Direction,
    peer: &Addr,
    port: &PortSpec,
) -> bool {
    if endpoint.flags & EndpointWorld::QUARANTINE != 0 {
        return false;
    }
    let half = endpoint.half();
    let found = verdict::policy(tables, 0, &half, direction, peer, port.protocol, port.port);
    found != verdict::Policy::Deny
}

impl PolicyTables for Known<'_> {
    fn class(&self, world: World, addr: &Addr) -> u32 {
        let known = self.classes.get(addr).copied();
        known.unwrap_or_else(|| self.tables.class(world, addr))
    }

    fn grant(&self, world: World, ruleset: u32, class: u32) -> Grant {
        self.tables.grant(world, ruleset, class)
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        self.tables.port(key, port)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{index, pod};

    #[test]
    fn cells_say_port_by_port_who_reaches_whom() {
        let ledger = json!({"app": "ledger", "ringfence.dev/ingress": "enforce"});
        let api = json!({"app": "api", "egress.ringfence.dev/ledger": "80"});
        let workload = json!({"kind": "Deployment", "metadata": {"name": "api", "namespace": "b"},
            "spec": {"template": {"metadata": {"labels": api}}}});
        let index = index([pod("b/ledger", "10.0.0.1", ledger), workload]);
        let ports = ["TCP/80", "ICMP"].map(|p| p.parse().expect(p));
        let matrix = Matrix::compute(&index, &ports);
        let json = serde_json::to_value(&matrix).expect("JSON");
        assert_eq!(json["ports"], json!(["TCP/80", "ICMP"]));
        assert_eq!(json["pods"], json!(["b/api", "b/ledger"]));
        assert_eq!(
            json["allowed"]["b/api"],
            json!({"b/api": "..", "b/ledger": ".X"})
        );
        assert_eq!(
            json["allowed"]["b/ledger"],
            json!({"b/api": "..", "b/ledger": ".."})
        );
        assert_eq!(json["egress"]["b/api"]["b/ledger"], "..");
    }

    #[test]
    fn a_real_pod_takes_its_workloads_place() {
        let workload = json!({"kind": "Deployment", "metadata": {"name": "api", "namespace": "b"}});
        let mut real = pod("b/api-7c9fb5d6b8-x", "10.0.0.1", json!({}));
        real["metadata"]["ownerReferences"] =
            json!([{"kind": "ReplicaSet", "name": "api-7c9fb5d6b8"}]);
        let matrix = Matrix::compute(&index([workload, real]), &[]);
        assert_eq!(matrix.pods, ["b/api-7c9fb5d6b8-x"]);
    }

    #[test]
    fn a_pod_under_quarantine_reaches_only_itself() {
        let cut_off = pod(
            "b/q",
            "10.0.0.1",
            json!({"ringfence.dev/quarantine": "true"}),
        );
        let index = index([cut_off, pod("b/p", "10.0.0.2", json!({}))]);
        let matrix = Matrix::compute(&index, &["TCP/1".parse().expect("port")]);
        let cell = |a: &str, b: &str| matrix.allowed[a][b].as_str();
        assert_eq!(
            [cell("b/q", "b/q"), cell("b/q", "b/p"), cell("b/p", "b/q")],
            [".", "X", "X"]
        );
    }
}
