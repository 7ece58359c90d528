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
    ruleset::{Content, Grants, Half, Step, resolve},
    slots::{Slots, Turnover},
};

/// Index of a ruleset in use.
pub(super) type RulesetSlot = u32;

/// Ports of enforced policies, and of enforced and staged ones together.
pub(super) type Pair = [Ports; 2];

/// A ruleset in use.
#[derive(Debug)]
pub(super) struct Ruleset {
    content: Arc<Content>,
    uses: u32,
    /// `None` before it is numbered.
    pub(super) id: Option<u32>,
    halves: [Option<Ready>; 2],
    /// Of the content, made of the hashes of its peers.
    hash: u64,
    /// Every peer that it tells apart, sorted.
    pub(super) peers: Vec<PeerId>,
    /// What it grants a class that holds none of them.
    pub(super) default: Pair,
}

/// A half with peers by their indexes.
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

/// What a peer is given.
#[derive(Debug)]
enum Given {
    Ports(Ports),
    /// The port that it asks for by name.
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

    /// The id of a ruleset that is numbered.
    pub(super) fn id(&self, slot: RulesetSlot) -> u32 {
        self.get(slot).and_then(|r| r.id).unwrap_or(0)
    }

    /// Every ruleset in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RulesetSlot, &Ruleset)> {
        self.slots.iter()
    }

    /// The ruleset of a content, used once more.
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

    /// Used once less. It stays until the next numbering.
    pub(super) fn release(&mut self, slot: RulesetSlot) {
        if let Some(ruleset) = self.slots.get_mut(slot) {
            ruleset.uses -= 1;
            if ruleset.uses == 0 {
                self.touched.push(slot);
            }
        }
    }

    /// Drops rulesets that nobody uses. Before peers are settled, since theirs go too.
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

    /// Numbers new ones.
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

    /// Numbers all of them, whatever ids they had.
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
        let halves = [&content.enforced, &content.staged].map(|half| {
            let half = half.as_ref()?;
            Some(Ready::new(half, slot, peers, &mut used))
        });
        used.sort_unstable();
        used.dedup();
        let hash = hash(&halves, peers);
        let mut ruleset = Self {
            hash,
            content: Arc::clone(content),
            uses: 1,
            id: None,
            halves,
            peers: used,
            default: Pair::default(),
        };
        ruleset.default = ruleset.grants(&[]);
        ruleset
    }

    /// Whether NetworkPolicies or labels have a say in it.
    pub(super) fn has_network(&self) -> bool {
        let mut halves = self.halves.iter().flatten();
        halves.any(|half| half.network.is_some())
    }

    /// Whether NetworkPolicies or labels name a peer of it, and not
    /// ClusterNetworkPolicies alone.
    pub(super) fn in_network(&self, peer: PeerId) -> bool {
        let halves = self.halves.iter().flatten();
        let mut networks = halves.filter_map(|half| half.network.as_ref());
        networks.any(|given| {
            let found = given.peers.binary_search_by_key(&peer, |(id, _)| *id);
            found.is_ok()
        })
    }

    /// What it grants a class of these members, which are sorted.
    pub(super) fn grants(&self, set: &[Member]) -> Pair {
        [0, 1].map(|i| {
            let half = self.halves[i].as_ref();
            half.map_or_else(Ports::default, |half| {
                let (admin, baseline) = (&half.admin, &half.baseline);
                let hit = |given: &ByPeer| given.hit(set);
                resolve(admin, half.network.as_ref(), baseline, hit)
            })
        })
    }
}

impl Ready {
    fn new(half: &Half, slot: RulesetSlot, peers: &mut Peers, used: &mut Vec<PeerId>) -> Self {
        let mut by_peer = |grants: &Grants| ByPeer::new(grants, slot, peers, used);
        let mut steps = |steps: &[Step]| {
            let steps = steps.iter();
            steps.map(|s| (s.action, by_peer(&s.what))).collect()
        };
        let (admin, baseline) = (steps(&half.admin), steps(&half.baseline));
        Self {
            admin,
            baseline,
            network: half.network.as_ref().map(by_peer),
        }
    }
}

/// The hash of two halves, whatever the indexes of peers.
fn hash(halves: &[Option<Ready>; 2], peers: &Peers) -> u64 {
    let mut bytes = Vec::new();
    for half in halves {
        let Some(half) = half else {
            bytes.push(0);
            continue;
        };
        bytes.push(1);
        for tier in [&half.admin, &half.baseline] {
            bytes.extend(tier.len().to_be_bytes());
            for (action, given) in tier {
                bytes.push(*action as u8);
                given.hash(peers, &mut bytes);
            }
        }
        bytes.push(u8::from(half.network.is_some()));
        half.network
            .iter()
            .for_each(|given| given.hash(peers, &mut bytes));
    }
    peers.key.hash(&bytes)
}

impl ByPeer {
    fn hash(&self, peers: &Peers, bytes: &mut Vec<u8>) {
        let ports = |given: &Given| match given {
            Given::Ports(ports) => peers.key.of(ports),
            // The peer says which.
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

    /// The ports of whom a set holds.
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
