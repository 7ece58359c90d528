//! `ringfence explain -o json`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Direction;
use crate::words::words;

/// The explanation of one call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The caller. If a service has several pods, one with the worst verdict.
    pub from: Party,
    /// The callee, chosen the same way.
    pub to: Party,
    /// The port; the callee's own if the call goes through a Service.
    pub port: String,
    /// The Service called, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// A remark on a Service that shows the callee's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The worse verdict of the two sides.
    pub verdict: Verdict,
    /// The verdicts over IPv4 and over IPv6, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub families: Option<[Verdict; 2]>,
    /// The caller's side.
    pub egress: Side,
    /// The callee's side.
    pub ingress: Side,
    /// The smallest change that would allow the call, or keep it allowed once staged policies are
    /// enforced; all entries are needed together.
    pub fix: Vec<Fix>,
    /// The side effects of the fix, all entries together; none without a fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
}

/// One end of a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Party {
    /// Its kind.
    pub kind: PartyKind,
    /// `namespace/pod`, the node's address, or `outside`.
    pub name: String,
    /// `namespace/service`, `node`, `unknown` or `outside`.
    pub workload: String,
    /// The address used for the verdict; none if it is made up.
    pub address: Option<IpAddr>,
}

/// One side of a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Side {
    /// [`Direction::Egress`] of the caller or [`Direction::Ingress`] of the callee.
    pub direction: Direction,
    /// The verdict of this side.
    pub verdict: Verdict,
    /// The reason, in one sentence.
    pub reason: String,
    /// The policies that close this direction, by default or for this call.
    pub isolated_by: Vec<Isolation>,
    /// The rules that open it for this call.
    pub allowed_by: Vec<Allowing>,
}

/// A policy that closes a direction of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Isolation {
    /// `NetworkPolicy bank/deny-all`, or the label.
    pub policy: String,
    /// The reason it applies to this pod.
    pub why: String,
    /// Whether it is staged: it only counts and doesn't drop.
    pub staged: bool,
}

/// A rule that allows a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Allowing {
    /// See [`Isolation::policy`].
    pub policy: String,
    /// The rule's location in the policy.
    pub rule: String,
    /// Whether it is staged: it allows nothing until its policy is enforced.
    pub staged: bool,
}

/// A Service through which a call goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Via {
    /// `namespace/name` of the Service.
    pub service: String,
    /// The Service address called.
    pub address: IpAddr,
    /// The Service port called.
    pub port: String,
    /// The backends that nodes may forward the call to, each with its worst verdict.
    pub backends: Vec<Backend>,
}

/// One backend of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// `namespace/pod`, or an address.
    pub name: String,
    /// The backend's own port, which is the one that policies refer to.
    pub port: String,
    /// The worst verdict of the calls to it.
    pub verdict: Verdict,
}

/// A change to one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fix {
    /// Kind and name: `Pod bank/ledger-0`.
    pub object: String,
    /// The form of [`Fix::patch`].
    pub form: Form,
    /// YAML to paste: a merge patch (RFC 7386) of the object, or a new object.
    pub patch: String,
    /// The effect, in one sentence.
    pub sentence: String,
}

/// The side effects of a fix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Effect {
    /// Calls between other workloads, or on other ports, that the fix allows.
    pub opens: Calls,
    /// Calls that the fix denies.
    pub closes: Calls,
    /// Whether the cluster has more kinds of pods than were compared, so the effect may be
    /// incomplete.
    pub partly: bool,
}

/// Calls by workload: all are counted, only the first ones are named.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Calls {
    /// The number of pairs of caller and callee.
    pub count: usize,
    /// The first pairs, sorted.
    pub calls: Vec<ChangedCall>,
}

/// A caller, a callee and the ports that change between them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangedCall {
    /// The caller: `namespace/service`, `node` or `outside`.
    pub from: String,
    /// The callee, in the same form.
    pub to: String,
    /// The ports, or `all`.
    pub ports: Vec<String>,
}

words! {
    /// The verdict on a call.
    Verdict {
        /// Allowed.
        Allowed = "allowed",
        /// Allowed, but a staged policy would deny it.
        Audited = "audited",
        /// Denied.
        Denied = "denied",
    }
}

words! {
    /// The kind of one end of a call.
    PartyKind {
        /// A pod, or a workload that represents its pods.
        Pod = "pod",
        /// A node.
        Node = "node",
        /// An address in the cluster's pod ranges without a known pod.
        Unknown = "unknown",
        /// Any other address.
        Outside = "outside",
    }
}

words! {
    /// How a change is written.
    Form {
        /// A merge patch of an existing object.
        Patch = "patch",
        /// A complete new object.
        Object = "object",
    }
}
