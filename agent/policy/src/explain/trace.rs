//! Finds the rule that decides, by evaluating policies in order.

use crate::{
    compile::policy::{Policy, Rank, Rule},
    model::{Action, PolicyType, Tier},
};

/// What decides a call in one direction.
pub(super) enum Decision<'p> {
    /// A rule of a tier accepts it.
    Accepted(&'p Policy, &'p Rule),
    /// A rule of a tier denies it.
    Denied(&'p Policy, &'p Rule),
    /// The union of NetworkPolicies and labels.
    Network,
    /// Nothing decides: the call is allowed.
    Default,
}

/// Evaluates policies in order; `hits` reports whether a rule matches the call.
pub(super) fn trace<'p>(
    policies: impl Iterator<Item = &'p Policy>,
    direction: PolicyType,
    hits: &dyn Fn(&Rule) -> bool,
) -> Decision<'p> {
    let mut passed = None;
    let mut isolated = false;
    for policy in policies {
        let Some(rules) = policy.rules(direction) else {
            continue;
        };
        let tier = match policy.rank {
            Rank::Network { isolates } => {
                isolated |= isolates;
                continue;
            }
            Rank::Tier(tier) => tier,
        };
        if tier == Tier::Baseline && isolated {
            return Decision::Network;
        }
        if passed == Some(tier) {
            continue;
        }
        if let Some(rule) = rules.iter().find(|rule| hits(rule)) {
            match rule.action {
                Action::Accept => return Decision::Accepted(policy, rule),
                Action::Deny => return Decision::Denied(policy, rule),
                Action::Pass => passed = Some(tier),
            }
        }
    }
    if isolated {
        Decision::Network
    } else {
        Decision::Default
    }
}
