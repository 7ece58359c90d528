//! What a new generation may take from whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use ringfence_ebpf::abi::{Addr, EndpointWorld, PortBlock, PortSet};

use crate::{
    index::PodKey,
    tables::{EndpointPolicy, Tables},
};

/// The difference between two generations, as far as it matters to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Endpoints of the new generation that may lose something: their epoch
    /// rises, so that open flows are decided anew. New endpoints are among them.
    pub raised: BTreeSet<PodKey>,
    /// Whether all that differs is exact addresses added to `classes` or
    /// `identities`: then both worlds can be written without a flip.
    pub additive: bool,
}

impl Change {
    /// Compares two generations.
    ///
    /// Exact up to what can't be seen from tables: for each pair (class before,
    /// class now) that some address went through, an endpoint loses something
    /// if its ruleset of now grants the class of now less than before.
    pub fn between(old: &Tables, new: &Tables) -> Self {
        let mut losses = Losses {
            old,
            new,
            moves: moves(old, new),
            rulesets: BTreeMap::new(),
            sets: BTreeMap::new(),
        };
        let mut raised = BTreeSet::new();
        for (key, now) in &new.endpoints {
            let kept = old
                .endpoints
                .get(key)
                .is_some_and(|before| losses.none(before, now));
            if !kept {
                raised.insert(key.clone());
            }
        }
        Self {
            raised,
            additive: additive(old, new),
        }
    }
}

fn additive(old: &Tables, new: &Tables) -> bool {
    let kept = |(addr, class): (&Addr, &u32)| new.classes.get(addr) == Some(class);
    old.cidrs == new.cidrs
        && old.rules == new.rules
        && old.ports == new.ports
        && old.endpoints == new.endpoints
        && old.classes.iter().all(kept)
        && old
            .identities
            .iter()
            .all(|(addr, who)| new.identities.get(addr) == Some(who))
}

/// Every (class before, class now) that some address goes through.
///
/// Between the prefixes of both generations nothing changes, so each prefix
/// speaks for the addresses that no longer one covers.
fn moves(old: &Tables, new: &Tables) -> BTreeSet<(u32, u32)> {
    let mut moves = BTreeSet::from([(0, 0)]);
    for addr in old.classes.keys().chain(new.classes.keys()) {
        moves.insert((old.class_of(addr), new.class_of(addr)));
    }
    for (addr, len) in old.cidrs.keys().chain(new.cidrs.keys()) {
        let before = old.class_by_prefix(addr, *len);
        moves.insert((before, new.class_by_prefix(addr, *len)));
    }
    moves
}

/// The half of a grant that is compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Enforced,
    Staged,
}

struct Losses<'t> {
    old: &'t Tables,
    new: &'t Tables,
    moves: BTreeSet<(u32, u32)>,
    /// Whether the second ruleset grants all that the first did.
    rulesets: BTreeMap<(u32, u32, Half), bool>,
    /// Whether the second port set holds all of the first.
    sets: BTreeMap<(u32, u32), bool>,
}

impl Losses<'_> {
    fn none(&mut self, before: &EndpointPolicy, now: &EndpointPolicy) -> bool {
        let cut_off = now.flags & !before.flags & EndpointWorld::QUARANTINE != 0;
        before.addresses == now.addresses
            && !cut_off
            && self.none_in(
                before,
                now,
                before.ingress,
                now.ingress,
                [
                    EndpointWorld::INGRESS_ISOLATED,
                    EndpointWorld::INGRESS_STAGED,
                ],
            )
            && self.none_in(
                before,
                now,
                before.egress,
                now.egress,
                [EndpointWorld::EGRESS_ISOLATED, EndpointWorld::EGRESS_STAGED],
            )
    }

    /// A staged policy takes nothing, but only a fresh decision counts what it would take.
    fn none_in(
        &mut self,
        before: &EndpointPolicy,
        now: &EndpointPolicy,
        ruleset_before: u32,
        ruleset_now: u32,
        bits: [u32; 2],
    ) -> bool {
        let halves = [Half::Enforced, Half::Staged];
        bits.into_iter().zip(halves).all(|(bit, half)| {
            match (before.flags & bit != 0, now.flags & bit != 0) {
                (_, false) => true,
                (false, true) => false,
                (true, true) => self.covers(ruleset_before, ruleset_now, half),
            }
        })
    }

    fn covers(&mut self, before: u32, now: u32, half: Half) -> bool {
        if let Some(known) = self.rulesets.get(&(before, now, half)) {
            return *known;
        }
        let pick = |tables: &Tables, ruleset, class| {
            let grant = tables
                .rules
                .get(&(ruleset, class))
                .copied()
                .unwrap_or_default();
            match half {
                Half::Enforced => grant.enforced,
                Half::Staged => grant.staged,
            }
        };
        let (old, new) = (self.old, self.new);
        let sets: BTreeSet<(u32, u32)> = self
            .moves
            .iter()
            .map(|(from, to)| (pick(old, before, *from), pick(new, now, *to)))
            .collect();
        let covers = sets.into_iter().all(|(a, b)| self.holds(a, b));
        self.rulesets.insert((before, now, half), covers);
        covers
    }

    /// By content: in two generations one id may stand for two sets.
    fn holds(&mut self, before: u32, now: u32) -> bool {
        if before == PortSet::NONE || now == PortSet::ALL {
            return true;
        }
        if before == PortSet::ALL {
            return false;
        }
        if let Some(known) = self.sets.get(&(before, now)) {
            return *known;
        }
        let whole = !PortSet::BLOCKS;
        let in_now = |protocol: u16| {
            let bit = match protocol {
                6 => PortSet::ALL_TCP,
                17 => PortSet::ALL_UDP,
                _ => PortSet::ALL_SCTP,
            };
            now & bit != 0
        };
        let covered = |((_, protocol, block), bits): (&(u32, u16, u16), &PortBlock)| {
            let key = (now & PortSet::BLOCKS, *protocol, *block);
            let there = self.new.ports.get(&key).copied().unwrap_or_default();
            in_now(*protocol) || bits.0.iter().zip(there.0).all(|(a, b)| a & !b == 0)
        };
        let holds = before & !now & whole == 0 && blocks(self.old, before).all(covered);
        self.sets.insert((before, now), holds);
        holds
    }
}

fn blocks(tables: &Tables, set: u32) -> impl Iterator<Item = (&(u32, u16, u16), &PortBlock)> {
    let set = set & PortSet::BLOCKS;
    let range = (
        Bound::Included((set, 0, 0)),
        Bound::Included((set, u16::MAX, u16::MAX)),
    );
    // Id 0 names no blocks, and none are stored under it.
    tables.ports.range(range)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        index::Scope,
        testing::{index, netpol, pod},
    };

    fn change(before: &[Value], now: &[Value]) -> (Vec<String>, bool) {
        let compile =
            |objects: &[Value]| index(objects.to_vec()).compile(&Scope::Node("n1".into()));
        let change = Change::between(&compile(before), &compile(now));
        let raised = change.raised.iter().map(ToString::to_string).collect();
        (raised, change.additive)
    }

    /// A subject under a policy that admits these peers on these ports, and an idle pod.
    fn cluster(peers: Value, ports: Value) -> Vec<Value> {
        let spec = json!({"podSelector": {"matchLabels": {"app": "s"}}, "ingress": [{"from": peers, "ports": ports}]});
        vec![
            pod("b/idle", "10.0.0.9", json!({})),
            pod("b/s", "10.0.0.1", json!({"app": "s"})),
            netpol("b/n", spec),
        ]
    }

    fn elsewhere(ip: &str, labels: Value) -> Value {
        let mut pod = pod("b/far", ip, labels);
        pod["spec"]["nodeName"] = json!("n2");
        pod
    }

    fn client() -> Value {
        json!([{"podSelector": {"matchLabels": {"app": "c"}}}])
    }

    #[test]
    fn a_new_address_of_a_known_class_is_additive_and_raises_nobody() {
        let mut before = cluster(client(), json!([]));
        before.push(pod("b/c", "10.0.0.2", json!({"app": "c"})));
        let mut now = before.clone();
        now.push(elsewhere("10.0.0.3", json!({"app": "c"})));
        assert_eq!(change(&before, &now), (vec![], true));
        let raised = vec!["b/s".to_owned()];
        assert_eq!(change(&now, &before), (raised, false));
    }

    #[test]
    fn a_new_address_that_loses_what_its_block_had_raises() {
        let outside = json!({"app": "s", "ringfence.dev/ingress": "enforce", "callers.ringfence.dev/outside_cluster": "true"});
        let before = vec![pod("b/s", "10.0.0.1", outside)];
        let mut now = before.clone();
        now.push(elsewhere("10.0.0.3", json!({})));
        assert_eq!(change(&before, &now), (vec!["b/s".to_owned()], true));
    }

    #[test]
    fn a_port_set_that_shrinks_raises_and_one_that_grows_does_not() {
        let wide = cluster(json!([]), json!([{"port": 1, "endPort": 300}]));
        let narrow = cluster(json!([]), json!([{"port": 1, "endPort": 299}]));
        assert_eq!(change(&wide, &narrow), (vec!["b/s".to_owned()], false));
        assert_eq!(change(&narrow, &wide), (vec![], false));
        let whole = cluster(json!([]), json!([{"protocol": "TCP"}]));
        assert_eq!(change(&wide, &whole), (vec![], false));
        assert_eq!(
            change(&cluster(json!([]), json!([])), &whole),
            (vec!["b/s".to_owned()], false)
        );
    }

    #[test]
    fn an_exception_that_appears_raises_and_a_block_that_grows_does_not() {
        let blocks = |b: Value| cluster(json!([{"ipBlock": b}]), json!([]));
        let plain = blocks(json!({"cidr": "192.0.2.0/24"}));
        let narrowed = blocks(json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25"]}));
        let wider = blocks(json!({"cidr": "192.0.2.0/23"}));
        assert_eq!(change(&plain, &narrowed), (vec!["b/s".to_owned()], false));
        assert_eq!(change(&plain, &wider), (vec![], false));
    }

    #[test]
    fn isolation_staging_and_quarantine_raise_their_own_pod_alone() {
        let free = vec![
            pod("b/idle", "10.0.0.9", json!({})),
            pod("b/s", "10.0.0.1", json!({"app": "s"})),
        ];
        let isolated = cluster(json!([]), json!([]));
        assert_eq!(change(&free, &isolated), (vec!["b/s".to_owned()], false));
        assert_eq!(change(&isolated, &free), (vec![], false));
        let mut staged = isolated.clone();
        staged[2]["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
        assert_eq!(change(&free, &staged), (vec!["b/s".to_owned()], false));
        let mut cut_off = free.clone();
        cut_off[0]["metadata"]["labels"] = json!({"ringfence.dev/quarantine": "true"});
        assert_eq!(change(&free, &cut_off), (vec!["b/idle".to_owned()], false));
    }

    #[test]
    fn a_peer_that_is_relabelled_raises_who_admitted_it() {
        let mut before = cluster(client(), json!([]));
        before.push(elsewhere("10.0.0.3", json!({"app": "c"})));
        let mut now = cluster(client(), json!([]));
        now.push(elsewhere("10.0.0.3", json!({"app": "d"})));
        assert_eq!(change(&before, &now).0, ["b/s"]);
        assert_eq!(change(&now, &before).0, [""; 0]);
    }

    #[test]
    fn nothing_changed_is_additive() {
        let same = cluster(client(), json!([]));
        assert_eq!(change(&same, &same), (vec![], true));
    }
}
