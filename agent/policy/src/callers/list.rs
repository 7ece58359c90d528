//! Lists every caller of a service, one row each.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

use ringfence_ebpf::abi::Direction;

use crate::{
    compile::{
        peer::{Base, Block},
        policy::{Facts, Parsed, Policy, Who},
    },
    index::{Owner, groups::GroupId},
    matrix::peer,
    model::PolicyType,
    ports::Ports,
    prefix::{V4_ROOT, V6_ROOT},
    snapshot::{self, Snapshot},
};

use super::{
    Caller, CallerKind, Callers, Egress, PolicyName,
    callee::{Allowed, Callee, Reader},
    sum::{Found, Line, Sum},
    through::{self, From},
};

/// The service, with cached results.
pub(super) struct Service<'s> {
    snapshot: &'s Snapshot,
    callees: Vec<Callee>,
    reader: RefCell<Reader<'s>>,
    /// Results by callee and class.
    known: RefCell<HashMap<(usize, u32), Rc<Found>>>,
}

impl<'s> Service<'s> {
    /// `pods` are positions in the snapshot.
    pub(super) fn new(snapshot: &'s Snapshot, pods: &[usize]) -> Self {
        let facts = Facts::new(&snapshot.index);
        let mut parsed = Parsed::default();
        let mut callees: Vec<Callee> = Vec::new();
        let mut places: HashMap<_, usize> = HashMap::new();
        for at in pods {
            let pod = &snapshot.pods[*at];
            let policy = &pod.policy;
            let group = snapshot.index.group_of(pod.id);
            let key: (Option<GroupId>, _) = (group, (policy.ingress, policy.flags, &pod.seen));
            let place = *places.entry(key).or_insert(callees.len());
            if place == callees.len() {
                callees.push(Callee {
                    pods: Vec::new(),
                    policy: policy.clone(),
                    seen: pod.seen.clone(),
                    policies: group.map_or_else(Vec::new, |g| parsed.of(&facts, g)),
                });
            }
            callees[place].pods.push(*at);
        }
        Self {
            snapshot,
            callees,
            reader: RefCell::new(Reader::new(&snapshot.tables)),
            known: RefCell::default(),
        }
    }

    /// Returns all callers.
    pub(super) fn callers(&self, service: String) -> Callers {
        let (anybody, any) = self.anybody();
        let mut callers = Vec::new();
        callers.extend(any.row(CallerKind::Any, "any address".into(), &Allowed::default()));
        self.outside(&anybody, &mut callers);
        self.nodes(&anybody, &mut callers);
        self.blocks(&anybody, &mut callers);
        self.workloads(&anybody, &mut callers);
        let pods = self.callees.iter().flat_map(|callee| &callee.pods);
        let pods: BTreeSet<&String> = pods.map(|at| &self.snapshot.pods[*at].name).collect();
        Callers {
            service,
            pods: pods.into_iter().cloned().collect(),
            isolated: anybody.now != Ports::all(),
            policies: self.policies(),
            callers,
        }
    }

    fn policies(&self) -> Vec<PolicyName> {
        let all = self.callees.iter().flat_map(|callee| &callee.policies);
        let ingress = all.filter(|p| p.rules(PolicyType::Ingress).is_some());
        let names: BTreeSet<PolicyName> = ingress
            .map(|policy| PolicyName {
                policy: policy.origin.to_string(),
                staged: policy.staged,
            })
            .collect();
        names.into_iter().collect()
    }

    /// Returns the access that every class has, and the rules that allow it.
    fn anybody(&self) -> (Allowed, Sum) {
        let mut sum = Sum::default();
        for callee in &self.callees {
            let mut allowed = Allowed::all();
            let classes = self.reader.borrow().classes();
            for class in classes {
                allowed = allowed.both(&self.allowed(callee, class));
            }
            let through = self.lines(callee, From::Anyone, &allowed);
            sum.add(&Found { allowed, through }, Egress::None);
        }
        // Ports that only some of the service's pods allow aren't open to any address.
        (sum.all.clone().unwrap_or_default(), sum)
    }

    /// Adds the addresses that no prefix distinguishes from others of their family.
    fn outside(&self, anybody: &Allowed, callers: &mut Vec<Caller>) {
        let families = [(V4_ROOT, true), (V6_ROOT, false)];
        let rows = families.map(|(root, is_v4)| {
            let mut sum = Sum::default();
            let class = self.snapshot.tables.cidrs.get(&root).copied().unwrap_or(0);
            for callee in &self.callees {
                let allowed = self.allowed(callee, class);
                let through = self.lines(callee, From::Outside { is_v4 }, &allowed);
                sum.add(&Found { allowed, through }, Egress::None);
            }
            sum.row(CallerKind::Outside, "outside".into(), anybody)
        });
        match rows {
            [v4, v6] if v4 == v6 => callers.extend(v4),
            [v4, v6] => {
                let named = [(v4, "outside (IPv4)"), (v6, "outside (IPv6)")];
                callers.extend(named.into_iter().filter_map(|(row, name)| {
                    let caller = name.to_owned();
                    row.map(|row| Caller { caller, ..row })
                }));
            }
        }
    }

    /// Adds one row for all nodes if their access is the same, otherwise one row per node.
    fn nodes(&self, anybody: &Allowed, callers: &mut Vec<Caller>) {
        let index = &self.snapshot.index;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for addr in index.owners.all() {
            let Some(Owner::Node(claims)) = index.owner(&addr) else {
                continue;
            };
            let class = self.snapshot.tables.class_of(&addr);
            for claim in claims {
                let name = match &claim.node {
                    Some(node) => node.to_string(),
                    None => IpAddr::from(addr).to_string(),
                };
                let sum = sums.entry(name).or_default();
                for callee in 0..self.callees.len() {
                    let found = self.found(callee, class, || Some(IpAddr::from(addr)));
                    sum.add(&found, Egress::None);
                }
            }
        }
        if sums.is_empty() {
            sums.insert(String::new(), self.unknown_node());
        }
        let rows = sums.into_iter();
        let rows: Vec<Option<Caller>> = rows
            .map(|(name, sum)| sum.row(CallerKind::Node, name, anybody))
            .collect();
        let plain = |row: &Option<Caller>| {
            let caller = "nodes".to_owned();
            row.clone().map(|row| Caller { caller, ..row })
        };
        match rows.split_first() {
            Some((first, others)) if others.iter().all(|row| plain(row) == plain(first)) => {
                callers.extend(plain(first));
            }
            _ => callers.extend(rows.into_iter().flatten()),
        }
    }

    /// Returns the access the rules give to nodes. Used if no node is known, so the tables have
    /// no class to look up.
    fn unknown_node(&self) -> Sum {
        let mut sum = Sum::default();
        for callee in &self.callees {
            let ports = |staged: bool| {
                let policies = callee.policies.iter().filter(|p| staged || !p.staged);
                let policies: Vec<&Policy> = policies.collect();
                let hits = through::hits(&self.snapshot.index, &policies, From::Node);
                let mut ports = Ports::default();
                hits.iter().for_each(|(_, more)| ports.add(more));
                ports
            };
            let mut allowed = Allowed::default();
            if !callee.is_quarantined() {
                allowed.now = ports(false);
                allowed.enforced = ports(true).both(&allowed.now);
            }
            let through = self.lines(callee, From::Node, &allowed);
            sum.add(&Found { allowed, through }, Egress::None);
        }
        sum
    }

    /// Adds the blocks that the service's policies name, limited to addresses without a known
    /// owner.
    fn blocks(&self, anybody: &Allowed, callers: &mut Vec<Caller>) {
        let policies = self.callees.iter().flat_map(|callee| &callee.policies);
        let rules = policies
            .filter_map(|p| p.rules(PolicyType::Ingress))
            .flatten();
        let whom = rules.flat_map(|rule| &rule.grants).map(|(who, _)| who);
        let blocks: BTreeSet<&Arc<Block>> = whom
            .filter_map(|who| match who {
                Who::Peer(peer) => match &peer.base {
                    Base::Block(block) => Some(block),
                    _ => None,
                },
                Who::Anyone => None,
            })
            .collect();
        for block in blocks {
            let mut classes: BTreeMap<u32, IpAddr> = BTreeMap::new();
            for addr in peer::stretches(&[self.snapshot], &block.cidr) {
                let ip = IpAddr::from(addr);
                if block.contains(ip) && self.snapshot.index.owner(&addr).is_none() {
                    let class = self.snapshot.tables.class_of(&addr);
                    classes.entry(class).or_insert(ip);
                }
            }
            let mut sum = Sum::default();
            for (class, ip) in classes {
                for callee in 0..self.callees.len() {
                    sum.add(&self.found(callee, class, || Some(ip)), Egress::None);
                }
            }
            let except = block.except.iter().map(ToString::to_string);
            let except: Vec<String> = except.collect();
            let name = match except.as_slice() {
                [] => block.cidr.to_string(),
                all => format!("{} except {}", block.cidr, all.join(", ")),
            };
            callers.extend(sum.row(CallerKind::Block, name, anybody));
        }
    }

    fn workloads(&self, anybody: &Allowed, callers: &mut Vec<Caller>) {
        let mut by_workload: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, pod) in self.snapshot.pods.iter().enumerate() {
            by_workload
                .entry(&pod.policy.workload)
                .or_default()
                .push(at);
        }
        for (name, pods) in by_workload {
            let mut sum = Sum::default();
            for at in pods {
                for callee in 0..self.callees.len() {
                    self.pair(at, callee, &mut sum);
                }
            }
            callers.extend(sum.row(CallerKind::Workload, name.to_owned(), anybody));
        }
    }

    /// Adds a pair of a caller's pod and the pods of the service. A pod always reaches itself.
    fn pair(&self, at: usize, place: usize, sum: &mut Sum) {
        let (pod, callee) = (&self.snapshot.pods[at], &self.callees[place]);
        if callee.pods.iter().all(|other| *other == at) {
            return;
        }
        for carried in snapshot::carried(&pod.seen, &callee.seen) {
            let [Some(class), called] = carried.classes else {
                continue;
            };
            let address = || {
                let own = self.snapshot.index.addresses_of(pod.id);
                let family = |ip: &&IpAddr| carried.is_v4.is_none_or(|is_v4| ip.is_ipv4() == is_v4);
                own.iter().find(family).copied()
            };
            let found = self.found(place, class, address);
            let egress = self.egress(at, called, &found.allowed.now);
            sum.add(&found, egress);
        }
    }

    /// Returns the caller's egress verdict on the ports that the callee allows it, for callee
    /// addresses of this class.
    fn egress(&self, at: usize, class: Option<u32>, ports: &Ports) -> Egress {
        let pod = &self.snapshot.pods[at];
        let Some(class) = class else {
            return Egress::Denied;
        };
        let mut reader = self.reader.borrow_mut();
        let allowed = reader.allowed(&pod.policy, Direction::Egress, class);
        if super::within(ports, &allowed.enforced) {
            Egress::Allowed
        } else if super::within(ports, &allowed.now) {
            Egress::Staged
        } else if allowed.now.both(ports).is_empty() {
            Egress::Denied
        } else {
            Egress::Partly
        }
    }

    fn allowed(&self, callee: &Callee, class: u32) -> Allowed {
        let mut reader = self.reader.borrow_mut();
        reader.allowed(&callee.policy, Direction::Ingress, class)
    }

    /// Returns what a callee allows a class; `address` returns an address of that class.
    fn found(&self, place: usize, class: u32, address: impl Fn() -> Option<IpAddr>) -> Rc<Found> {
        if let Some(known) = self.known.borrow().get(&(place, class)) {
            return Rc::clone(known);
        }
        let callee = &self.callees[place];
        let allowed = self.allowed(callee, class);
        let through = match address() {
            Some(address) => self.lines(callee, From::Address(address), &allowed),
            None => Vec::new(),
        };
        let found = Rc::new(Found { allowed, through });
        self.known
            .borrow_mut()
            .insert((place, class), Rc::clone(&found));
        found
    }

    /// Returns the rules that give a caller its access: enforced policies for the current access,
    /// all policies for the access once all are enforced.
    fn lines(&self, callee: &Callee, from: From, allowed: &Allowed) -> Vec<Line> {
        let index = &self.snapshot.index;
        let line = |(rule, ports): through::Hit<'_>| {
            let (policy, rule, staged) = match rule {
                Some((policy, rule)) => (
                    policy.origin.to_string(),
                    rule.name.text().into_owned(),
                    policy.staged,
                ),
                None => (String::new(), "nothing denies it".into(), false),
            };
            Line {
                policy,
                rule,
                staged,
                ports,
            }
        };
        let enforced: Vec<&Policy> = callee.policies.iter().filter(|p| !p.staged).collect();
        let all: Vec<&Policy> = callee.policies.iter().collect();
        let now = through::hits(index, &enforced, from);
        let mut lines: Vec<Line> = now.into_iter().map(line).collect();
        lines
            .iter_mut()
            .for_each(|l| l.ports = l.ports.both(&allowed.now));
        if enforced.len() < all.len() {
            let then = through::hits(index, &all, from).into_iter().map(line);
            lines.extend(then.filter(|line| line.staged).map(|line| Line {
                ports: line.ports.both(&allowed.enforced),
                ..line
            }));
        }
        lines.retain(|line| !line.ports.is_empty());
        lines
    }
}
