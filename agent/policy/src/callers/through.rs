//! Finds the callee's rules that allow a caller, and the ports they allow.

use std::net::IpAddr;

use ringfence_ebpf::abi::Addr;

use crate::{
    compile::{
        peer::Base,
        policy::{Policy, Rank, Rule, Who},
    },
    index::{Index, Owner},
    model::{Action, PolicyType, Tier},
    ports::Ports,
};

/// The caller.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    Address(IpAddr),
    /// Any address of a family that has no known owner and lies outside all blocks except one
    /// that covers the whole family.
    Outside {
        is_v4: bool,
    },
    /// Any node, when none is known.
    Node,
    /// Any caller at all.
    Anyone,
}

/// A rule and the ports that it allows; no rule if nothing denies the call.
pub(super) type Hit<'p> = (Option<(&'p Policy, &'p Rule)>, Ports);

/// Returns the rules of these policies that allow a caller, in evaluation order.
pub(super) fn hits<'p>(index: &Index, policies: &[&'p Policy], from: From) -> Vec<Hit<'p>> {
    let mut walk = Walk {
        index,
        from,
        open: Ports::all(),
        hits: Vec::new(),
    };
    walk.tier(policies, Tier::Admin);
    let mut isolated = false;
    let open = walk.open.clone();
    for policy in policies {
        let Rank::Network { isolates } = policy.rank else {
            continue;
        };
        let Some(rules) = policy.rules(PolicyType::Ingress) else {
            continue;
        };
        isolated |= isolates;
        for rule in rules {
            let ports = walk.granted(rule).both(&open);
            walk.hit(policy, rule, ports);
        }
    }
    if !isolated {
        walk.tier(policies, Tier::Baseline);
        if !walk.open.is_empty() {
            walk.hits.push((None, walk.open));
        }
    }
    walk.hits
}

struct Walk<'i, 'p> {
    index: &'i Index,
    from: From,
    /// The ports not decided yet.
    open: Ports,
    hits: Vec<Hit<'p>>,
}

impl<'p> Walk<'_, 'p> {
    fn tier(&mut self, policies: &[&'p Policy], tier: Tier) {
        let mut passed = Ports::default();
        for policy in policies.iter().filter(|p| p.rank == Rank::Tier(tier)) {
            for rule in policy.rules(PolicyType::Ingress).into_iter().flatten() {
                let matched = self.granted(rule).both(&self.open);
                self.open.subtract(&matched);
                match rule.action {
                    Action::Accept => self.hit(policy, rule, matched),
                    Action::Pass => passed.add(&matched),
                    Action::Deny => {}
                }
            }
        }
        self.open.add(&passed);
    }

    fn hit(&mut self, policy: &'p Policy, rule: &'p Rule, ports: Ports) {
        if !ports.is_empty() {
            self.hits.push((Some((policy, rule)), ports));
        }
    }

    /// Returns the ports that a rule allows this caller. Named ports are the callee's own here,
    /// so the compiler has resolved them.
    fn granted(&self, rule: &Rule) -> Ports {
        let mut ports = Ports::default();
        for (who, granted) in &rule.grants {
            let named = match who {
                Who::Anyone => true,
                Who::Peer(peer) => peer.named.is_none() && self.is_named_by(&peer.base),
            };
            if named {
                ports.add(granted);
            }
        }
        ports
    }

    fn is_named_by(&self, base: &Base) -> bool {
        let address = match self.from {
            From::Address(address) => address,
            From::Outside { is_v4 } => {
                return match base {
                    Base::Block(block) => {
                        let cidr = block.cidr;
                        cidr.prefix_len() == 0 && cidr.addr().is_ipv4() == is_v4
                    }
                    base => matches!(base, Base::Outside),
                };
            }
            From::Node => return matches!(base, Base::AllNodes),
            From::Anyone => return false,
        };
        let owner = self.index.owner(&Addr::from(address));
        match base {
            Base::Block(block) => block.contains(address),
            Base::Addresses(all) => all.contains(&address),
            Base::Nodes(selector) => {
                let claims = self.index.owners.nodes(&Addr::from(address)).iter();
                let shown = claims.filter(|claim| claim.in_status);
                let mut nodes =
                    shown.filter_map(|claim| self.index.nodes.get(claim.node.as_ref()?));
                nodes.any(|node| selector.matches(&node.labels))
            }
            Base::Outside => self.index.is_outside(&Addr::from(address)),
            Base::AllNodes => matches!(owner, Some(Owner::Node(_))),
            Base::Pods(_) | Base::Service { .. } | Base::Label { .. } => match owner {
                Some(Owner::Pod(id)) => self.index.entry(id).is_some_and(|pod| {
                    let traits = &pod.traits;
                    base.names(&self.index.namespace(&traits.namespace), traits)
                }),
                _ => false,
            },
        }
    }
}
