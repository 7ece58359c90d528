//! Lists who may call a service, on which ports, and through which rule.
//!
//! The ports come from the compiled tables. To find the rules, the callee's policies are
//! evaluated in order, as the compiler does, once per class of callers: all addresses of a class
//! match the same peers.

pub(crate) mod callee;
mod list;
mod sum;
mod through;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    index::Index,
    ports::Ports,
    select::{NameError, PodsName},
    snapshot::Snapshot,
};

/// The callers of a service.
///
/// A pod itself and its node are always allowed and aren't listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Callers {
    /// The name as requested, without `pod:` or `svc:`.
    pub service: String,
    /// Its pods, by name.
    pub pods: Vec<String>,
    /// Whether enforced policy isolates any of its pods for ingress.
    pub isolated: bool,
    /// The policies and labels that affect who may call it.
    pub policies: Vec<PolicyName>,
    /// The callers allowed now or once staged policies are enforced, sorted by kind in the order
    /// of [`CallerKind`], then by name.
    pub callers: Vec<Caller>,
}

/// A policy or label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyName {
    /// `NetworkPolicy bank/ledger`, or the label.
    pub policy: String,
    /// Whether it only counts the packets that it would deny.
    pub staged: bool,
}

/// The kind of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerKind {
    /// Any address at all; callers with no access beyond this aren't listed.
    Any,
    /// Addresses of no known pod or node, outside the listed blocks.
    Outside,
    /// Nodes.
    Node,
    /// Addresses of an `ipBlock` or `networks` without a known pod or node.
    Block,
    /// Pods of one `namespace/service`.
    Workload,
}

/// A caller of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// Its kind.
    pub kind: CallerKind,
    /// `namespace/service`, the block as written in its policy, a node's name, `nodes`, `outside`
    /// or `any address`.
    pub caller: String,
    /// The ports that the service's ingress allows: `TCP/8080`, `TCP/8080-8090`, `TCP`, `ICMP`
    /// (meaning all protocols without ports), or `all`.
    pub ports: Vec<String>,
    /// The same once staged policies are enforced.
    pub once_enforced: Vec<String>,
    /// Whether this holds only for some of the caller's pods or addresses, or some of the
    /// service's pods.
    pub partly: bool,
    /// Whether the caller's own egress allows it on these ports.
    pub egress: Egress,
    /// The service's rules that allow it.
    pub through: Vec<Through>,
}

/// The verdict of a caller's own egress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// It allows the call.
    Allowed,
    /// It allows the call, but a staged policy would deny it.
    Staged,
    /// It allows some of the ports, or some pods' calls.
    Partly,
    /// It denies the call.
    Denied,
    /// The caller has no firewall.
    None,
}

/// A rule that allows a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Through {
    /// `NetworkPolicy bank/ledger`, or the label; empty if no policy denies the call.
    pub policy: String,
    /// `spec.ingress[0]`, the caller's label, or a note that nothing denies the call.
    pub rule: String,
    /// The part of [`Caller::ports`] and [`Caller::once_enforced`] that it allows.
    pub ports: Vec<String>,
    /// Whether it is staged: it allows nothing until its policy is enforced.
    pub staged: bool,
}

/// Lists who may call `service`, given as `ns/service` or `ns/pod`; a leading `svc:` or `pod:`
/// resolves ambiguity.
///
/// # Errors
/// If the name isn't known, or is both a pod and a service of other pods.
pub fn callers(index: &Index, service: &str) -> Result<Callers, NameError> {
    let name = PodsName::parse(service, "ns/pod and ns/service")?;
    let snapshot = Snapshot::new(index);
    let pods = snapshot.places(&name.pods(&snapshot.index)?);
    Ok(list::Service::new(&snapshot, &pods).callers(name.to_string()))
}

/// Reports whether all of some ports are among others.
fn within(ports: &Ports, others: &Ports) -> bool {
    let mut rest = ports.clone();
    rest.subtract(others);
    rest.is_empty()
}
