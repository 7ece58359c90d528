//! The datapath library over maps in memory, for the level without a kernel.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};

use ringfence_ebpf::abi::{
    Addr, Control, Direction, Endpoint, Flow, FlowKey, Grant, Identity, PortKey, Protocol, Stat,
    Tag, World,
};
use ringfence_ebpf::packet;
use ringfence_ebpf::verdict::{self, Context, PolicyTables, Scratch, Tables, Verdict};
use ringfence_policy::tables::Tables as Policy;

use super::fixture::{self, PODS, Pod};
use super::step::{Expected, Series, Source, Step};

/// Interface index of the first pod; the others follow.
const FIRST_IFINDEX: u32 = 100;
/// An interface that nobody manages.
const UNMANAGED: u32 = 99;
/// A second, in the datapath's nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// A node's datapath in memory.
#[derive(Debug)]
pub struct Host {
    policy: Policy,
    endpoints: HashMap<u32, Endpoint>,
    workloads: Vec<String>,
    identities: HashMap<Addr, Identity>,
    flows: RefCell<HashMap<FlowKey, Flow>>,
    opening: RefCell<HashMap<FlowKey, Flow>>,
    stats: RefCell<[u64; Stat::COUNT as usize]>,
    /// Denied and audited packets.
    pub drops: BTreeMap<Series, u64>,
    /// What is in force.
    pub control: Control,
    /// The clock.
    pub now: u64,
}

impl Host {
    /// With the fixture's pods and policies, or others for the same pods.
    pub fn new(policy: Policy) -> Self {
        let mut host = Self {
            policy,
            endpoints: HashMap::new(),
            workloads: Vec::new(),
            identities: HashMap::new(),
            flows: RefCell::default(),
            opening: RefCell::default(),
            stats: RefCell::default(),
            drops: BTreeMap::new(),
            control: Control::default(),
            now: 1000 * SECOND,
        };
        for (addr, (name, flags)) in host.policy.identities.clone() {
            let node = flags & Identity::IS_NODE != 0;
            let workload = if node { Identity::NODE } else { host.id(&name) };
            host.identities.insert(addr, Identity { workload, flags });
        }
        for (ifindex, pod) in (FIRST_IFINDEX..).zip(PODS) {
            let endpoint = host.endpoint_of(ifindex, &pod);
            host.endpoints
                .insert(Endpoint::home_slot(ifindex), endpoint);
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
            worlds: [policy.half(); 2],
            mac: pod.mac,
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
            id => self.workloads[(id - Identity::FIRST) as usize].clone(),
        }
    }

    /// The endpoint of a pod, to be changed.
    ///
    /// # Panics
    /// If there is no such pod.
    pub fn endpoint_mut(&mut self, pod: &str) -> &mut Endpoint {
        let slot = Endpoint::home_slot(ifindex(Some(pod)));
        self.endpoints.get_mut(&slot).expect("every pod has a slot")
    }

    /// A counter of the datapath's own.
    pub fn stat(&self, stat: Stat) -> u64 {
        self.stats.borrow()[stat as usize]
    }

    /// Live and dead flows, replied and unreplied ones.
    pub fn flow_count(&self) -> (usize, usize) {
        (self.flows.borrow().len(), self.opening.borrow().len())
    }

    /// Runs a step's hook and counts as the hooks do.
    pub fn run(&mut self, step: &Step) -> Verdict {
        let mut scratch = Scratch::EMPTY;
        packet::parse(step.frame.as_slice(), &mut scratch.packet);
        let slot = verdict::find_slot(self, ifindex(step.pod));
        let context = self.context(step, slot);
        let decide = match step.hook {
            Direction::Egress => verdict::from_pod::<Self, [u8]>,
            Direction::Ingress => verdict::to_pod::<Self, [u8]>,
        };
        let verdict = match self.endpoint(slot) {
            Some(endpoint) => decide(self, &context, endpoint, &step.frame, &mut scratch),
            None => verdict::unknown_endpoint(&self.control, step.hook),
        };
        if let Some(reason) = verdict.reason {
            let series = Series {
                source: self.name(verdict.source),
                destination: self.name(verdict.destination),
                direction: verdict.direction.name(),
                reason: reason.name(),
                protocol: Protocol::from_iana(scratch.packet.protocol).name(),
                audited: verdict.audited,
            };
            *self.drops.entry(series).or_default() += 1;
        }
        verdict
    }

    fn context(&self, step: &Step, slot: u32) -> Context {
        let (ingress_ifindex, tag) = match step.source {
            Source::Node => (0, Tag(0)),
            Source::Forwarded => (UNMANAGED, Tag(0)),
            Source::Pod { name, service } => {
                let sender = ifindex(Some(name));
                (sender, Tag::new(Endpoint::home_slot(sender), service))
            }
        };
        Context {
            control: self.control,
            slot,
            now: self.now,
            len: step.frame.len() as u32,
            ingress_ifindex,
            tag,
            vlan: false,
        }
    }
}

/// What became of a frame, in the table's words.
pub fn outcome(verdict: &Verdict) -> Expected {
    match verdict.reason {
        None => Expected::Pass,
        Some(reason) if verdict.audited => Expected::Audit(reason),
        Some(reason) => Expected::Drop(reason),
    }
}

fn ifindex(pod: Option<&str>) -> u32 {
    let Some(pod) = pod else {
        return UNMANAGED;
    };
    let number = PODS.iter().position(|one| one.name == pod);
    FIRST_IFINDEX + number.map_or(u32::MAX - FIRST_IFINDEX, |number| number as u32)
}

impl PolicyTables for Host {
    fn class(&self, world: World, addr: &Addr) -> u32 {
        self.policy.class(world, addr)
    }

    fn grant(&self, world: World, ruleset: u32, class: u32) -> Grant {
        self.policy.grant(world, ruleset, class)
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        self.policy.port(key, port)
    }
}

type Table = RefCell<HashMap<FlowKey, Flow>>;

fn find<'a>(table: &'a Table, key: &FlowKey) -> Option<RefMut<'a, Flow>> {
    RefMut::filter_map(table.borrow_mut(), |flows| flows.get_mut(key)).ok()
}

impl Tables for Host {
    type FlowRef<'a> = RefMut<'a, Flow>;

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.endpoints.get(&slot)
    }

    fn identity(&self, addr: &Addr) -> Identity {
        self.identities.get(addr).copied().unwrap_or_default()
    }

    fn flow(&self, key: &FlowKey) -> Option<RefMut<'_, Flow>> {
        find(&self.flows, key)
    }

    fn opening(&self, key: &FlowKey) -> Option<RefMut<'_, Flow>> {
        find(&self.opening, key)
    }

    fn open(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.opening.borrow_mut().insert(*key, *flow);
        true
    }

    fn promote(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.flows.borrow_mut().insert(*key, *flow);
        self.opening.borrow_mut().remove(key);
        true
    }

    fn count(&self, stat: Stat) {
        self.stats.borrow_mut()[stat as usize] += 1;
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new(fixture::tables())
    }
}
