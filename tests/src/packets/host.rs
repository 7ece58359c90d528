//! The datapath library over maps in memory, for the level without a kernel.

mod tables;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use ringfence_ebpf::abi::{
    Addr, Claim, Control, Direction, Endpoint, Identity, Mac, Protocol, Quota, Seed, Stat, Tag,
};
use ringfence_ebpf::conntrack::Clock;
use ringfence_ebpf::packet::{self, Packet};
use ringfence_ebpf::shared::{SharedBucket, SharedQuota};
use ringfence_ebpf::verdict::{self, Context, Memo, Scratch};
use ringfence_policy::tables::Tables as Policy;

use super::bucket::held;
use super::fixture::{self, PODS, Pod};
pub use super::said::said;
use super::sent::Sent;
use super::step::{Expected, Series, Source, Step};

/// Interface index of the first pod; the others follow.
const FIRST_IFINDEX: u32 = 100;
/// An interface that nobody manages.
const UNMANAGED: u32 = 99;
/// Buckets of each table of connections: fewer than the kernel has, for they are made
/// anew for each test.
const BUCKETS: u32 = 64;
/// Any will do.
const SEED: Seed = Seed([11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]);
/// A second, in ticks of the datapath's clock.
pub const SECOND: u64 = 1000;

/// A node's datapath in memory.
#[derive(Debug)]
pub struct Host {
    policy: Policy,
    endpoints: HashMap<u32, Endpoint>,
    workloads: Vec<String>,
    identities: HashMap<Addr, Identity>,
    connections: Vec<SharedBucket>,
    opening: Vec<SharedBucket>,
    memos: RefCell<Vec<Memo>>,
    quotas: HashMap<u32, SharedQuota>,
    claims: RefCell<HashMap<Addr, Claim>>,
    stats: RefCell<[u64; Stat::COUNT as usize]>,
    /// Denied and audited packets.
    pub drops: BTreeMap<Series, u64>,
    /// What is in force.
    pub control: Control,
    /// The clock.
    pub now: u64,
    /// Whether the last packet was sent on to be decided again behind DNAT.
    pub service: bool,
    last: Packet,
}

impl Host {
    /// With the fixture's pods and policies, or others for the same pods.
    pub fn new(policy: Policy) -> Self {
        let mut host = Self {
            policy,
            endpoints: HashMap::new(),
            workloads: Vec::new(),
            identities: HashMap::new(),
            connections: vec![SharedBucket::default(); BUCKETS as usize],
            opening: vec![SharedBucket::default(); BUCKETS as usize],
            memos: RefCell::new(vec![Memo::default(); Memo::ENTRIES as usize]),
            quotas: HashMap::from([(Quota::NODE, SharedQuota::default())]),
            claims: RefCell::default(),
            stats: RefCell::default(),
            drops: BTreeMap::new(),
            control: Control {
                state: Control::state(1, 0),
                ..Control::default()
            },
            now: 1000 * SECOND,
            service: false,
            last: Packet::EMPTY,
        };
        for (addr, (name, flags)) in host.policy.identities.clone() {
            let node = flags & Identity::IS_NODE != 0;
            let workload = if node { Identity::NODE } else { host.id(&name) };
            let identity = Identity {
                workload,
                flags,
                ..Identity::UNKNOWN
            };
            host.identities.insert(addr, identity);
        }
        for (ifindex, pod) in (FIRST_IFINDEX..).zip(PODS) {
            let endpoint = host.endpoint_of(ifindex, &pod);
            let slot = Endpoint::home_slot(ifindex);
            host.endpoints.insert(slot, endpoint);
            host.quotas.insert(slot, SharedQuota::default());
        }
        host
    }

    fn endpoint_of(&mut self, ifindex: u32, pod: &Pod) -> Endpoint {
        let policies = &self.policy.endpoints;
        let found = policies.iter().find(|(key, _)| key.name == pod.name);
        let policy = found.map(|(_, policy)| policy.clone()).unwrap_or_default();
        let address = |v4: bool| {
            let own = pod.addresses().into_iter().find(|ip| ip.is_ipv4() == v4);
            own.map_or(Addr::UNSPECIFIED, Addr::from)
        };
        Endpoint {
            ifindex,
            id: ifindex,
            workload: self.id(&policy.workload),
            v4: address(true),
            v6: address(false),
            link_local: pod.link_local().into(),
            rules: [policy.rules(); 2],
            tiers: [policy.tiers; 2],
            mac: Mac::new(pod.mac),
            ..Endpoint::default()
        }
    }

    fn id(&mut self, workload: &str) -> u32 {
        let known = self.workloads.iter().position(|name| name == workload);
        let index = known.unwrap_or_else(|| {
            self.workloads.push(workload.to_owned());
            self.workloads.len() - 1
        });
        Identity::FIRST + index as u32
    }

    fn name(&self, id: u32) -> String {
        match id {
            Identity::OUTSIDE => "outside".to_owned(),
            Identity::NODE => "node".to_owned(),
            Identity::UNKNOWN_POD => "unknown".to_owned(),
            id => self.workloads[(id - Identity::FIRST) as usize].clone(),
        }
    }

    /// Makes a prefix a range of pods. CPUs hear of it with the next generation.
    pub fn add_range(&mut self, prefix: (Addr, u8)) {
        self.policy.ranges.insert(prefix, Identity::UNKNOWN_POD);
    }

    /// Puts the next generation in force.
    pub fn next_generation(&mut self) {
        let (next, buffer) = (self.control.generation() + 1, self.control.buffer());
        self.control.state = Control::state(next.into(), buffer);
    }

    /// The endpoint of a pod, to be changed.
    ///
    /// # Panics
    /// If there is no such pod.
    pub fn endpoint_mut(&mut self, pod: &str) -> &mut Endpoint {
        let slot = Endpoint::home_slot(ifindex(Some(pod)));
        self.endpoints.get_mut(&slot).expect("every pod has a slot")
    }

    /// Lets a pod count as keeping so many answered connections.
    pub fn keep(&mut self, pod: &str, connections: u32) {
        let endpoint = self.endpoint_mut(pod).id;
        let quota = &self.quotas[&Endpoint::home_slot(ifindex(Some(pod)))];
        quota.endpoint.set(endpoint);
        quota.replied.set(connections);
    }

    /// A counter of the datapath's own.
    pub fn stat(&self, stat: Stat) -> u64 {
        self.stats.borrow()[stat as usize]
    }

    /// Live and dead connections, replied and unreplied ones.
    pub fn connection_count(&self) -> (usize, usize) {
        (held(&self.connections), held(&self.opening))
    }

    /// Runs a step's hook and counts as the hooks do.
    ///
    /// # Panics
    /// If the parser's shortcut reads another packet than its long way.
    pub fn run(&mut self, step: &Step) -> Expected {
        let Scratch { mut workspace, .. } = Scratch::empty();
        let frame = step.frame.as_slice();
        // Into what the last one left, as on a CPU.
        let mut packet = self.last;
        packet::parse(frame, &mut packet);
        self.last = packet;
        let packet = &packet;
        let mut walked = Packet::EMPTY;
        packet::parse_any(frame, &mut walked);
        assert_eq!(said(packet), said(&walked), "the shortcut says the same");
        let found = verdict::find(self, ifindex(step.pod));
        let context = self.context(step, found.map_or(0, |(slot, _)| slot));
        let decide = match step.hook {
            Direction::Egress => verdict::from_pod::<Self, Sent<'_>>,
            Direction::Ingress => verdict::to_pod::<Self, Sent<'_>>,
        };
        let sent = Sent {
            bytes: frame,
            pending: step.pending,
        };
        let verdict = match found {
            Some((_, endpoint)) => decide(self, &context, endpoint, &sent, packet, &mut workspace),
            None => verdict::unknown_endpoint(&self.control, step.hook, &workspace.denial),
        };
        self.service = verdict.service;
        if !verdict.noted {
            return Expected::Pass;
        }
        let denial = workspace
            .denial
            .get()
            .placed(self, packet, self.control.generation());
        let series = Series {
            source: self.name(denial.source),
            destination: self.name(denial.destination),
            direction: denial.direction.name(),
            reason: denial.reason.name(),
            protocol: Protocol::from_iana(packet.protocol).name(),
            audited: denial.audited,
        };
        *self.drops.entry(series).or_default() += 1;
        if denial.audited {
            Expected::Audit(denial.reason)
        } else {
            Expected::Drop(denial.reason)
        }
    }

    fn context(&self, step: &Step, slot: u32) -> Context {
        let (ingress_ifindex, tag) = match step.source {
            Source::Node | Source::Unproven => (0, Tag(0)),
            Source::Forwarded | Source::Unseen => (UNMANAGED, Tag(0)),
            Source::Pod { name, service } => {
                let sender = ifindex(Some(name));
                (sender, Tag::new(Endpoint::home_slot(sender), service))
            }
        };
        Context {
            control: self.control,
            slot,
            clock: Clock {
                now: self.now,
                second: SECOND,
            },
            len: step.frame.len() as u32,
            ingress_ifindex,
            by_node: step.source == Source::Node,
            unseen: step.source.is_unproven(),
            tag,
            vlan: step.vlan,
        }
    }
}

fn ifindex(pod: Option<&str>) -> u32 {
    let Some(pod) = pod else {
        return UNMANAGED;
    };
    let number = PODS.iter().position(|one| one.name == pod);
    FIRST_IFINDEX + number.map_or(u32::MAX - FIRST_IFINDEX, |number| number as u32)
}

impl Default for Host {
    fn default() -> Self {
        Self::new(fixture::tables())
    }
}
