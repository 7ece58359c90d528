//! The union of a pod's policies per direction.

use std::collections::BTreeMap;

use ringfence_ebpf::abi::EndpointWorld;
use serde::{Serialize, Serializer};

use crate::{model::PolicyType, ports::Ports};

use super::{
    peer::Peer,
    policy::{Policy, Who},
};

/// What one ruleset grants; equal contents share one id.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Content {
    /// By enforced policies.
    pub(crate) enforced: Grants,
    /// By enforced and staged ones together.
    pub(crate) staged: Grants,
}

/// Ports by peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Grants {
    /// To any address.
    pub(crate) anyone: Ports,
    #[serde(serialize_with = "as_pairs")]
    pub(crate) peers: BTreeMap<Peer, Ports>,
}

/// JSON has text keys only.
fn as_pairs<S: Serializer>(peers: &BTreeMap<Peer, Ports>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(peers)
}

impl Grants {
    fn add(&mut self, who: &Who, ports: &Ports) {
        if ports.is_empty() {
            return;
        }
        match who {
            Who::Anyone => self.anyone.add(ports),
            Who::Peer(peer) => self.peers.entry(peer.clone()).or_default().add(ports),
        }
    }
}

impl Content {
    /// Every peer that it tells apart.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.enforced.peers.keys().chain(self.staged.peers.keys())
    }
}

/// What a pod is under.
#[derive(Clone, Debug, Default)]
pub(crate) struct Under {
    /// `None` if nothing isolates it, enforced or staged.
    pub(crate) ingress: Option<Content>,
    pub(crate) egress: Option<Content>,
    /// Bits of [`EndpointWorld`] for isolation.
    pub(crate) flags: u32,
}

impl Under {
    pub(crate) fn new(policies: &[Policy]) -> Self {
        let mut under = Self::default();
        for (direction, enforced, staged) in [
            (
                PolicyType::Ingress,
                EndpointWorld::INGRESS_ISOLATED,
                EndpointWorld::INGRESS_STAGED,
            ),
            (
                PolicyType::Egress,
                EndpointWorld::EGRESS_ISOLATED,
                EndpointWorld::EGRESS_STAGED,
            ),
        ] {
            let mut content = Content::default();
            for policy in policies {
                let Some(rules) = policy.rules(direction) else {
                    continue;
                };
                if policy.isolates {
                    under.flags |= if policy.staged { staged } else { enforced };
                }
                for (who, ports) in rules.iter().flat_map(|r| &r.grants) {
                    content.staged.add(who, ports);
                    if !policy.staged {
                        content.enforced.add(who, ports);
                    }
                }
            }
            let content = (under.flags & (enforced | staged) != 0).then_some(content);
            match direction {
                PolicyType::Ingress => under.ingress = content,
                PolicyType::Egress => under.egress = content,
            }
        }
        under
    }

    /// Its contents, at most two.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &Content> {
        self.ingress.iter().chain(&self.egress)
    }
}
