//! Peers exempt from NetworkPolicies and labels: the pod itself and its own node.

use ringfence_ebpf::abi::{Addr, Direction};

use crate::{
    compile::policy::{Policy, Rank},
    model::PolicyType,
};

use super::{Case, Party, party::PartyKind, side::quarantined};

/// An exemption from NetworkPolicies and labels.
pub(super) struct Exempt {
    /// Whether ClusterNetworkPolicies don't apply either.
    pub(super) always: bool,
    /// The reason, in one sentence.
    pub(super) reason: String,
}

/// Returns the exemption from NetworkPolicies and labels between a pod and its peer, if there is
/// one.
pub(super) fn exempt(
    case: &Case<'_>,
    (subject, peer): (&Party, &Party),
    direction: Direction,
    through: bool,
) -> Option<Exempt> {
    let exempt = |always, reason: &str| {
        let reason = reason.to_owned();
        Some(Exempt { always, reason })
    };
    let Some(pod) = case.pod(subject) else {
        let what = match subject.kind {
            PartyKind::Node => "a node has no firewall of its own",
            PartyKind::Unknown => "what is at this address isn't known here",
            _ => "what is outside the cluster has no firewall here",
        };
        return exempt(true, what);
    };
    let cut_off = quarantined(case, subject);
    if subject.pod == peer.pod {
        return exempt(!through || cut_off, "a pod always reaches itself");
    }
    let claims = case.index.owners.nodes(&Addr::from(peer.judged));
    let own = claims
        .iter()
        .any(|claim| claim.node.is_some() && claim.node == pod.node);
    if peer.kind != PartyKind::Node || !own {
        return None;
    }
    // No ClusterNetworkPolicy can name a node as a source.
    let always = direction == Direction::Ingress || cut_off;
    exempt(
        always,
        "a pod and the node that runs it always reach each other",
    )
}

/// Reports whether a ClusterNetworkPolicy applies in a direction.
pub(super) fn has_tiers(policies: &[Policy], direction: PolicyType) -> bool {
    let mut tiers = policies
        .iter()
        .filter(|policy| matches!(policy.rank, Rank::Tier(_)));
    tiers.any(|policy| policy.rules(direction).is_some())
}
