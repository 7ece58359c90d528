//! Who may call a service, on which ports, and through which rule.
//!
//! The ports come from the compiled tables. The rules come from going through
//! the callee's policies in their order, as the compiler does, once per class of
//! callers: addresses of one class match the same peers.

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

/// Who may call a service.
///
/// A pod itself and its node always may and aren't listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Callers {
    /// As asked for, without `pod:` or `svc:`.
    pub service: String,
    /// Its pods, by name.
    pub pods: Vec<String>,
    /// Whether enforced policy closes any of its pods to anybody.
    pub isolated: bool,
    /// What has a say in who may call it.
    pub policies: Vec<PolicyName>,
    /// Those who may, or may once staged policies are enforced: kinds in the
    /// order of [`CallerKind`], then by name.
    pub callers: Vec<Caller>,
}

/// A policy or label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyName {
    /// `NetworkPolicy bank/ledger`, or the label.
    pub policy: String,
    /// Only counts what it would deny.
    pub staged: bool,
}

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerKind {
    /// Any address at all; callers that may no more than this aren't listed.
    Any,
    /// Addresses of no known pod or node, but for those of listed blocks.
    Outside,
    /// Nodes.
    Node,
    /// Addresses of an `ipBlock` or `networks` that no known pod or node has.
    Block,
    /// Pods of one `namespace/service`.
    Workload,
}

/// Somebody who may call the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// What it is.
    pub kind: CallerKind,
    /// `namespace/service`, the block as its policy has it, a node's name,
    /// `nodes`, `outside` or `any address`.
    pub caller: String,
    /// What the service's ingress allows: `TCP/8080`, `TCP/8080-8090`, `TCP`,
    /// `ICMP` (with it all protocols without ports), or `all`.
    pub ports: Vec<String>,
    /// The same once staged policies are enforced.
    pub once_enforced: Vec<String>,
    /// Whether this holds only for some of its pods or addresses, or of the service's.
    pub partly: bool,
    /// Whether the caller's own egress allows it on these ports.
    pub egress: Egress,
    /// The service's rules that allow it.
    pub through: Vec<Through>,
}

/// What a caller's own egress says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// It allows the call.
    Allowed,
    /// It does, but a staged policy wouldn't.
    Staged,
    /// It allows some ports, or those of some pods.
    Partly,
    /// It denies the call.
    Denied,
    /// There is no firewall around the caller.
    None,
}

/// A rule that allows a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Through {
    /// `NetworkPolicy bank/ledger`, or the label; empty where none denies.
    pub policy: String,
    /// `spec.ingress[0]`, the caller's label, or that nothing denies it.
    pub rule: String,
    /// What of [`Caller::ports`] and [`Caller::once_enforced`] it allows.
    pub ports: Vec<String>,
    /// Only counts: it allows nothing before its policy is enforced.
    pub staged: bool,
}

/// Who may call `service`: `ns/service` or `ns/pod`; `svc:` and `pod:` in front
/// say which is meant.
///
/// # Errors
/// A name that isn't known, or that is both a pod and a service of other pods.
pub fn callers(index: &Index, service: &str) -> Result<Callers, NameError> {
    let name = PodsName::parse(service, "ns/pod and ns/service")?;
    let snapshot = Snapshot::new(index);
    let pods = snapshot.places(&name.pods(&snapshot.index)?);
    Ok(list::Service::new(&snapshot, &pods).callers(name.to_string()))
}

/// Whether all of some ports are among others.
fn within(ports: &Ports, others: &Ports) -> bool {
    let mut rest = ports.clone();
    rest.subtract(others);
    rest.is_empty()
}
