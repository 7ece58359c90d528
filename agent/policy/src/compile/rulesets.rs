//! The rulesets in use, and what they grant each class.

use std::sync::Arc;

use crate::{
    intern::HashMap,
    model::{Action, Protocol},
    ports::Ports,
};

use super::{
    ids::{self, Clash, Ids},
    peers::{Member, PeerId, Peers},
    ruleset::{Content, Grants, Step, TieredRules, resolve},
    slots::{Slots, Turnover},
};

/// Index of a ruleset in use.
pub(super) type RulesetSlot = u32;

/// Ports granted by enforced policies, and by enforced and staged ones together.
pub(super) type Pair = [Ports; 2];

/// A ruleset in use.
#[derive(Debug)]
pub(super) struct Ruleset {
    content: Arc<Content>,
    uses: u32,
    /// `None` until it is numbered.
    pub(super) id: Option<u32>,
    stages: [Option<Ready>; 2],
    /// Hash of the content, built from the hashes of its peers.
    hash: u64,
    /// Every peer that it distinguishes, sorted.
    pub(super) peers: Vec<PeerId>,
    /// What it grants a class that contains none of them.
    pub(super) default: Pair,
}

/// Tiered rules with peers by their indexes.
#[derive(Debug)]
struct Ready {
    admin: Vec<(Action, ByPeer)>,
    network: Option<ByPeer>,
    baseline: Vec<(Action, ByPeer)>,
}

/// Grants by peer, sorted.
#[derive(Debug)]
struct ByPeer {
    anyone: Ports,
    peers: Vec<(PeerId, Given)>,
}

/// What a peer is granted.
#[derive(Debug)]
enum Given {
    Ports(Ports),
    /// The port that the peer names.
    Asked(Protocol),
}

/// The rulesets in use.
#[derive(Debug)]
pub(super) struct Rulesets {
    slots: Slots<Ruleset>,
    by_content: HashMap<Arc<Content>, RulesetSlot>,
    ids: Ids,
    touched: Vec<RulesetSlot>,
}

impl Rulesets {
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::default(),
            by_content: HashMap::default(),
            ids: Ids::new(ids::PLAIN),
            touched: Vec::new(),
        }
    }

    pub(super) fn get(&self, slot: RulesetSlot) -> Option<&Ruleset> {
        self.slots.get(slot)
    }

    /// Returns the id of a numbered ruleset.
    pub(super) fn id(&self, slot: RulesetSlot) -> u32 {
        self.get(slot).and_then(|r| r.id).unwrap_or(0)
    }

    /// Iterates over the rulesets in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RulesetSlot, &Ruleset)> {
        self.slots.iter()
    }

    /// Returns the ruleset of a content and counts one more use of it.
    pub(super) fn acquire(&mut self, content: Content, peers: &mut Peers) -> RulesetSlot {
        if let Some(slot) = self.by_content.get(&content).copied() {
            if let Some(ruleset) = self.slots.get_mut(slot) {
                ruleset.uses += 1;
            }
            return slot;
        }
        let content = Arc::new(content);
        let ruleset = Ruleset::new(&content, self.slots.vacant(), peers);
        let slot = self.slots.insert(ruleset);
        self.by_content.insert(content, slot);
        self.touched.push(slot);
        slot
    }

    /// Counts one use less. The ruleset stays until the next call of [`Self::drop_unused`].
    pub(super) fn release(&mut self, slot: RulesetSlot) {
        if let Some(ruleset) = self.slots.get_mut(slot) {
            ruleset.uses -= 1;
            if ruleset.uses == 0 {
                self.touched.push(slot);
            }
        }
    }

    /// Drops unused rulesets. Call it before peers are reconciled, since this releases their peers
    /// too.
    pub(super) fn drop_unused(&mut self, peers: &mut Peers) -> Turnover {
        let mut turnover = Turnover::default();
        for slot in std::mem::take(&mut self.touched) {
            match self.get(slot) {
                Some(r) if r.uses == 0 => turnover.gone.extend(self.drop_ruleset(slot, peers)),
                Some(r) if r.id.is_none() => turnover.new.push(slot),
                _ => {}
            }
        }
        turnover.new.sort_unstable();
        turnover.new.dedup();
        turnover
    }

    fn drop_ruleset(&mut self, slot: RulesetSlot, peers: &mut Peers) -> Option<u32> {
        let ruleset = self.slots.remove(slot)?;
        for id in &ruleset.peers {
            peers.release(*id, slot);
        }
        self.by_content.remove(&ruleset.content);
        let id = ruleset.id?;
        self.ids.free(id);
        Some(id)
    }

    /// Numbers new rulesets.
    pub(super) fn number(&mut self, new: &[RulesetSlot]) -> Result<(), Clash> {
        for slot in new {
            let hash = self.get(*slot).map_or(0, |r| r.hash);
            let id = self.ids.take(hash)?;
            if let Some(ruleset) = self.slots.get_mut(*slot) {
                ruleset.id = Some(id);
            }
        }
        self.ids.check()
    }

    /// Renumbers all rulesets, whatever ids they had.
    pub(super) fn number_all(&mut self) {
        let all = self.iter();
        let content = all.map(|(slot, r)| (r.hash, (Arc::clone(&r.content), slot)));
        let mut contents: Vec<_> = content.collect();
        let mut given = Vec::new();
        let order = |a: &(Arc<Content>, _), b: &(Arc<Content>, _)| a.0.cmp(&b.0);
        let give = |(_, slot): &(_, RulesetSlot), id| given.push((*slot, id));
        self.ids.assign(&mut contents, order, give);
        for (slot, id) in given {
            if let Some(ruleset) = self.slots.get_mut(slot) {
                ruleset.id = Some(id);
            }
        }
    }
}

impl Ruleset {
    fn new(content: &Arc<Content>, slot: RulesetSlot, peers: &mut Peers) -> Self {
        let mut used = Vec::new();
        let stages = [&content.enforced, &content.staged].map(|rules| {
            let rules = rules.as_ref()?;
            Some(Ready::new(rules, slot, peers, &mut used))
        });
        used.sort_unstable();
        used.dedup();
        let hash = hash(&stages, peers);
        let mut ruleset = Self {
            hash,
            content: Arc::clone(content),
            uses: 1,
            id: None,
            stages,
            peers: used,
            default: Pair::default(),
        };
        ruleset.default = ruleset.grants(&[]);
        ruleset
    }

    /// Reports whether NetworkPolicies or labels apply to it.
    pub(super) fn has_network(&self) -> bool {
        let mut stages = self.stages.iter().flatten();
        stages.any(|rules| rules.network.is_some())
    }

    /// Reports whether NetworkPolicies or labels use one of its peers, rather than
    /// ClusterNetworkPolicies alone.
    pub(super) fn in_network(&self, peer: PeerId) -> bool {
        let stages = self.stages.iter().flatten();
        let mut networks = stages.filter_map(|rules| rules.network.as_ref());
        networks.any(|given| {
            let found = given.peers.binary_search_by_key(&peer, |(id, _)| *id);
            found.is_ok()
        })
    }

    /// Returns what it grants a class with these members, which are sorted.
    pub(super) fn grants(&self, set: &[Member]) -> Pair {
        [0, 1].map(|i| {
            let rules = self.stages[i].as_ref();
            rules.map_or_else(Ports::default, |rules| {
                let (admin, baseline) = (&rules.admin, &rules.baseline);
                let hit = |given: &ByPeer| given.hit(set);
                resolve(admin, rules.network.as_ref(), baseline, hit)
            })
        })
    }
}

impl Ready {
    fn new(
        rules: &TieredRules,
        slot: RulesetSlot,
        peers: &mut Peers,
        used: &mut Vec<PeerId>,
    ) -> Self {
        let mut by_peer = |grants: &Grants| ByPeer::new(grants, slot, peers, used);
        let mut steps = |steps: &[Step]| {
            let steps = steps.iter();
            steps.map(|s| (s.action, by_peer(&s.what))).collect()
        };
        let (admin, baseline) = (steps(&rules.admin), steps(&rules.baseline));
        Self {
            admin,
            baseline,
            network: rules.network.as_ref().map(by_peer),
        }
    }
}

/// Hashes the rules of both stages, independent of the indexes of peers.
fn hash(stages: &[Option<Ready>; 2], peers: &Peers) -> u64 {
    let mut bytes = Vec::new();
    for rules in stages {
        let Some(rules) = rules else {
            bytes.push(0);
            continue;
        };
        bytes.push(1);
        for tier in [&rules.admin, &rules.baseline] {
            bytes.extend(tier.len().to_be_bytes());
            for (action, given) in tier {
                bytes.push(*action as u8);
                given.hash(peers, &mut bytes);
            }
        }
        bytes.push(u8::from(rules.network.is_some()));
        rules
            .network
            .iter()
            .for_each(|given| given.hash(peers, &mut bytes));
    }
    peers.key.hash(&bytes)
}

impl ByPeer {
    fn hash(&self, peers: &Peers, bytes: &mut Vec<u8>) {
        let ports = |given: &Given| match given {
            Given::Ports(ports) => peers.key.of(ports),
            // The peer defines the port.
            Given::Asked(_) => 0,
        };
        let one = |(id, given): &(PeerId, Given)| {
            (peers.get(*id).map_or(0, |known| known.hash), ports(given))
        };
        let mut hashes: Vec<(u64, u64)> = self.peers.iter().map(one).collect();
        hashes.sort_unstable();
        bytes.extend(peers.key.of(&self.anyone).to_be_bytes());
        bytes.extend(hashes.len().to_be_bytes());
        for (peer, ports) in hashes {
            bytes.extend(peer.to_be_bytes());
            bytes.extend(ports.to_be_bytes());
        }
    }

    fn new(grants: &Grants, slot: RulesetSlot, peers: &mut Peers, used: &mut Vec<PeerId>) -> Self {
        let given = grants.peers.iter().map(|(peer, ports)| {
            let id = peers.acquire(peer, slot);
            used.push(id);
            let given = match &peer.named {
                Some(named) => Given::Asked(named.protocol),
                None => Given::Ports(ports.clone()),
            };
            (id, given)
        });
        let mut given: Vec<_> = given.collect();
        given.sort_unstable_by_key(|(id, _)| *id);
        Self {
            anyone: grants.anyone.clone(),
            peers: given,
        }
    }

    /// Returns the ports granted to the members of a set.
    fn hit(&self, set: &[Member]) -> Ports {
        let mut ports = self.anyone.clone();
        for (id, number) in set {
            let Ok(at) = self.peers.binary_search_by_key(id, |(id, _)| *id) else {
                continue;
            };
            match (&self.peers[at].1, number) {
                (Given::Ports(given), _) => ports.add(given),
                (Given::Asked(protocol), Some(number)) => {
                    ports.add(&Ports::one(*protocol, *number));
                }
                (Given::Asked(_), None) => {}
            }
        }
        ports
    }
}
