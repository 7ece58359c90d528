//! `ringfence callers -o json`.

use serde::{Deserialize, Serialize};

use crate::words::words;

/// The callers of a service. A pod itself and its node are always allowed and aren't listed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Callers {
    /// The name as requested, without `pod:` or `svc:`.
    pub service: String,
    /// Its pods, by name.
    pub pods: Vec<String>,
    /// Whether enforced policy isolates any of its pods for ingress.
    pub isolated: bool,
    /// The policies and labels that affect who may call it.
    pub policies: Vec<PolicyName>,
    /// The callers allowed now or once staged policies are enforced.
    pub callers: Vec<Caller>,
}

/// A policy or label.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyName {
    /// `NetworkPolicy bank/ledger`, or the label.
    pub policy: String,
    /// Whether it only counts the packets that it would deny.
    pub staged: bool,
}

/// A caller of the service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// Its kind.
    pub kind: CallerKind,
    /// `namespace/service`, the block as written in its policy, a node's name, `nodes`, `outside`
    /// or `any address`.
    pub caller: String,
    /// The ports that the service's ingress allows, or `all`; `ICMP` means all protocols without
    /// ports.
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

/// A rule that allows a caller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

words! {
    /// The kind of a caller.
    CallerKind {
        /// Any address at all.
        Any = "any",
        /// Addresses of no known pod or node, outside the listed blocks.
        Outside = "outside",
        /// Nodes.
        Node = "node",
        /// Addresses of a block without a known pod or node.
        Block = "block",
        /// Pods of one `namespace/service`.
        Workload = "workload",
    }
}

words! {
    /// The verdict of a caller's own egress.
    Egress {
        /// It allows the call.
        Allowed = "allowed",
        /// It allows the call, but a staged policy would deny it.
        Staged = "staged",
        /// It allows some of the ports, or some pods' calls.
        Partly = "partly",
        /// It denies the call.
        Denied = "denied",
        /// The caller has no firewall.
        None = "none",
    }
}
