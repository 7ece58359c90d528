//! A naive reading of the policies: the judge of the compiler.
//!
//! For one packet it goes through the objects one by one, as a person with the
//! Kubernetes documents and the label table at hand would. It knows no tables,
//! classes, port sets or ids, and shares no code with the policy package, so
//! that a misreading by either author shows as a disagreement.
//! [`check`] alone knows both sides.
//!
//! It judges by policy alone, like `ringfence_ebpf::verdict::policy`: that the
//! node and a pod itself are always let in, quarantine and Service addresses
//! are the datapath's business.

pub(crate) mod address;
mod allowlist;
pub mod check;
mod cluster_policy;
#[cfg(test)]
mod cluster_tests;
mod cluster_valid;
mod dns;
mod network_policy;
#[cfg(test)]
mod newer_tests;
mod object;
pub(crate) mod selector;
#[cfg(test)]
mod tests;
mod valid;

use std::net::IpAddr;

pub use cluster_policy::{Action, Opinions, Tier};
use serde_json::Value;

/// One end of a probe.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct End {
    /// The address that the packet carries.
    pub address: IpAddr,
    /// Namespace and name of the pod whose interface it is, if it is one's.
    /// Kept beside the address, since two pods can show the same one.
    pub pod: Option<(String, String)>,
}

/// The first packet of a connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Probe {
    /// Who opens it.
    pub from: End,
    /// Who is called.
    pub to: End,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
}

/// What one direction of a probe is to get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// No endpoint of this scope stands at that end.
    NotManaged,
    /// Enforced policies deny it.
    Deny,
    /// Enforced policies allow it; with the staged ones they would deny it.
    Audit,
    /// Allowed, and still allowed once staged policies are enforced.
    Allow,
}

/// The verdicts of both ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// At the called end.
    pub ingress: Verdict,
    /// At the calling end.
    pub egress: Verdict,
}

/// The verdicts that `objects` give a probe on `node`.
pub fn verdict(objects: &[Value], node: &str, probe: &Probe) -> Expected {
    Oracle::of_node(objects, node).verdict(probe)
}

/// Which way, seen from the judged pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Ingress,
    Egress,
}

/// One direction of one probe, seen from the judged pod.
struct Case<'a> {
    direction: Direction,
    /// The judged pod.
    pod: &'a Value,
    /// The other end's address.
    peer: IpAddr,
    /// The pod that the address means, if any.
    peer_pod: Option<&'a Value>,
    protocol: u8,
    port: u16,
}

impl<'a> Case<'a> {
    /// The pod whose ports a port name means: always the called one.
    fn destination(&self) -> Option<&'a Value> {
        match self.direction {
            Direction::Ingress => Some(self.pod),
            Direction::Egress => self.peer_pod,
        }
    }
}

/// What one NetworkPolicy or allowlist says of one case.
struct Opinion {
    /// Counts only in the "what if it were enforced" reading.
    staged: bool,
    /// Closes the pod to all that no policy allows.
    isolates: bool,
    /// One of its rules allows the packet.
    allows: bool,
}

/// The objects, and whose pods are judged.
pub struct Oracle<'a> {
    objects: &'a [Value],
    /// None: every pod of the cluster is judged, and no node is "this" one.
    node: Option<&'a str>,
}

impl<'a> Oracle<'a> {
    /// Judges as the agent on one node.
    pub fn of_node(objects: &'a [Value], node: &'a str) -> Self {
        Self {
            objects,
            node: Some(node),
        }
    }

    /// Judges every pod, as the offline commands do.
    pub fn of_cluster(objects: &'a [Value]) -> Self {
        Self {
            objects,
            node: None,
        }
    }

    /// The verdicts of both ends of a probe.
    pub fn verdict(&self, probe: &Probe) -> Expected {
        let [ingress, egress] = self.cases(probe);
        let judge = |case: Option<Case<'_>>| match case {
            None => Verdict::NotManaged,
            Some(case) => self.judge(&case),
        };
        Expected {
            ingress: judge(ingress),
            egress: judge(egress),
        }
    }

    /// What the tiers say of the judged ends of a probe: as enforced, and as
    /// if staged policies were too.
    pub fn said(&self, probe: &Probe) -> Vec<Opinions> {
        let cases = self.cases(probe).into_iter().flatten();
        cases.flat_map(|case| self.opinions(&case)).collect()
    }

    /// The called end's side of a probe and the calling end's, where managed.
    fn cases(&self, probe: &Probe) -> [Option<Case<'a>>; 2] {
        let case = |direction, subject: &End, peer: IpAddr| {
            self.managed(subject).map(|pod| Case {
                direction,
                pod,
                peer,
                peer_pod: self.holder(peer),
                protocol: probe.protocol,
                port: probe.port,
            })
        };
        [
            case(Direction::Ingress, &probe.to, probe.from.address),
            case(Direction::Egress, &probe.from, probe.to.address),
        ]
    }

    fn judge(&self, case: &Case<'_>) -> Verdict {
        let [enforced, whole] = self.opinions(case);
        if !enforced.allow() {
            Verdict::Deny
        } else if !whole.allow() {
            Verdict::Audit
        } else {
            Verdict::Allow
        }
    }

    /// What every tier says: as enforced, and as if staged policies were too.
    fn opinions(&self, case: &Case<'_>) -> [Opinions; 2] {
        let policies = self.policies(case);
        [false, true].map(|with_staged| Opinions {
            admin: self.tier(Tier::Admin, case, with_staged),
            policies: union(policies.iter().filter(|o| with_staged || !o.staged)),
            baseline: self.tier(Tier::Baseline, case, with_staged),
        })
    }

    /// What NetworkPolicies and allowlists say, one by one.
    fn policies(&self, case: &Case<'_>) -> Vec<Opinion> {
        let policies = self.of_kind("NetworkPolicy");
        let mut all: Vec<Opinion> = policies
            .filter_map(|policy| self.network_policy(policy, case))
            .collect();
        match case.direction {
            Direction::Ingress => all.extend(self.ingress_labels(case)),
            Direction::Egress => all.extend(self.egress_labels(case)),
        }
        all
    }

    /// Whether the pod's labels ask for quarantine.
    pub fn quarantined(&self, namespace: &str, name: &str) -> bool {
        self.pod(namespace, name)
            .is_some_and(|pod| object::labels(pod).get("ringfence.dev/quarantine") == Some(&"true"))
    }
}

/// A pod that one of them isolates is open to what any of them allows.
fn union<'a>(opinions: impl Iterator<Item = &'a Opinion> + Clone) -> Option<bool> {
    let isolated = opinions.clone().any(|opinion| opinion.isolates);
    isolated.then(|| opinions.clone().any(|opinion| opinion.allows))
}

/// Whether an object is a policy that the API server would have refused.
pub fn is_invalid(object: &Value) -> bool {
    match object::text(object, "/kind") {
        "NetworkPolicy" => valid::fault(object).is_some(),
        "ClusterNetworkPolicy" => !cluster_valid::is_valid(object),
        _ => false,
    }
}

/// Whether the first CIDR holds the second as a part smaller than itself.
pub fn holds(whole: &str, part: &str) -> bool {
    let parse = address::Cidr::parse;
    matches!((parse(whole), parse(part)), (Some(w), Some(p)) if w.strictly_holds(&p))
}
