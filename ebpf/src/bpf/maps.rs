//! The maps, and the library's tables on top of them.
//!
//! All maps are pinned by name in the agent's ABI-versioned directory, so that enforcement
//! continues while no agent runs. Policy maps are not preallocated: they use only the memory of
//! their entries, and a removed element is freed after its readers have left, never reused for
//! another key while they read it.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{self, ArrayOfMaps};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use ringfence_ebpf::abi::{
    Addr, Buffer, CidrKey, Claim, ConnectionKey, Control, DropCount, DropKey, Endpoint, Grant,
    Identity, PortBlock, PortKey, RuleKey, ServiceKey, Stat, TunnelPorts, capacity,
};
use ringfence_ebpf::conntrack::Clock;
use ringfence_ebpf::packet::{Layout, Packet};
use ringfence_ebpf::shared::{Shared, SharedBudget, SharedConnection, SharedQuota};
use ringfence_ebpf::verdict::{Memo, PolicyTables, Scratch, Tables};

use super::buckets;

/// Mapped into the agent's memory, so that the agent can write its first word with one store.
#[map]
static CONTROL: Array<Control> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
pub(super) static ENDPOINTS: Array<Endpoint> = Array::pinned(capacity::ENDPOINTS, 0);
#[map]
static CIDRS: LpmTrie<CidrKey, u32> = LpmTrie::pinned(capacity::CIDRS, BPF_F_NO_PREALLOC);
#[map]
static RULES: HashMap<RuleKey, Grant> = HashMap::pinned(capacity::RULES, BPF_F_NO_PREALLOC);
#[map]
static PORTS: HashMap<PortKey, PortBlock> = HashMap::pinned(capacity::PORTS, BPF_F_NO_PREALLOC);
#[map]
static ADDRESSES: HashMap<Addr, Identity> = HashMap::pinned(capacity::ADDRESSES, BPF_F_NO_PREALLOC);
/// UDP ports of tunnels, one bit each; index = [`TunnelPorts::word`].
#[map]
static TUNNELS: Array<Shared<u64>> = Array::pinned(capacity::TUNNELS, 0);
#[map]
static SERVICES: HashMap<ServiceKey, u32> = HashMap::pinned(capacity::SERVICES, BPF_F_NO_PREALLOC);
#[map]
pub(super) static QUOTA: Array<SharedQuota> = Array::pinned(capacity::ENDPOINTS, 0);
/// Replied connections that are gone but still counted, by slot. Written by the agent.
#[map]
static GONE: Array<Shared<u32>> = Array::pinned(capacity::ENDPOINTS, 0);
#[map]
static CLAIMS: HashMap<Addr, Claim> = HashMap::pinned(capacity::CLAIMS, BPF_F_NO_PREALLOC);
/// The slot of the endpoint that owns an address, link-local addresses included. Written by the
/// agent.
#[map]
static LOCALS: HashMap<Addr, u32> = HashMap::pinned(capacity::LOCALS, BPF_F_NO_PREALLOC);
/// Number of series in `DROPS` by source workload.
#[map]
pub(super) static SOURCES: HashMap<u32, Shared<u32>> =
    HashMap::pinned(capacity::SOURCES, BPF_F_NO_PREALLOC);
#[map]
pub(super) static DROPS: PerCpuHashMap<DropKey, DropCount> =
    PerCpuHashMap::pinned(capacity::DROPS, 0);
#[map]
pub(super) static DROPS_OTHER: PerCpuArray<DropCount> = PerCpuArray::pinned(DropKey::OTHER, 0);
#[map]
static STATS: PerCpuArray<u64> = PerCpuArray::pinned(Stat::COUNT, 0);
#[map]
pub(super) static BUDGET: Array<SharedBudget> = Array::pinned(capacity::ENDPOINTS, 0);
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::pinned(capacity::EVENTS, 0);

/// The result of program `clock`, since a test run returns only 32 bits.
#[map]
pub(super) static TICKS: Array<u64> = Array::with_max_entries(1, 0);

/// Not pinned: dropped together with the programs.
#[map]
static MEMO: PerCpuArray<Memo> = PerCpuArray::with_max_entries(Memo::ENTRIES, 0);

#[map]
static SCRATCH: PerCpuArray<OfCpu> = PerCpuArray::with_max_entries(1, 0);

#[repr(transparent)]
struct OfCpu(Scratch);

// SAFETY: every CPU has its own element.
unsafe impl Sync for OfCpu {}

/// Lets the agent wait for readers: updating a map in map waits for a grace period (the contract
/// of `maybe_wait_bpf_programs`, Linux 4.16; about 8 ms).
#[btf_map]
static GRACE: ArrayOfMaps<btf_maps::Array<u32, 1>, 1> = ArrayOfMaps::new();

/// Returns this CPU's scratch memory; its previous content is undefined.
#[inline(always)]
pub(super) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: hooks run with softirqs off and don't nest, so this CPU's element has one user, and
    // every bit pattern of it is valid.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut (*scratch).0 })
}

/// Returns memory for a packet, which the parser fills.
#[inline(always)]
pub(super) fn room_for_packet(room: &mut MaybeUninit<Packet>) -> &mut Packet {
    let packet = room.as_mut_ptr();
    // SAFETY: map memory is never uninitialised, and all fields are integers except these two,
    // which are written before they are read. Initialising all fields would cost as much as
    // parsing.
    unsafe {
        (&raw mut (*packet).layout).write(Layout::Ip);
        (&raw mut (*packet).first_fragment).write(false);
        &mut *packet
    }
}

/// Returns the state that is in force; each hook reads it once per packet.
#[inline(always)]
pub(super) fn control() -> Control {
    let Some(control) = CONTROL.get_ptr(0) else {
        // An array of one has element 0; the check is for the verifier.
        return Control::default();
    };
    // SAFETY: aligned integers of an array's element. The agent may store to `state`
    // concurrently: a volatile load is one load of the full word.
    unsafe {
        Control {
            state: (&raw const (*control).state).read_volatile(),
            flags: (&raw const (*control).flags).read_volatile(),
            events_per_second: (&raw const (*control).events_per_second).read_volatile(),
            ticks_per_second: (&raw const (*control).ticks_per_second).read_volatile(),
            seen_mark: (&raw const (*control).seen_mark).read_volatile(),
        }
    }
}

/// Adds one to a per-CPU counter; hooks run with softirqs off, so nothing
/// interleaves on this CPU.
#[inline(always)]
pub(super) fn count(stat: Stat) {
    if let Some(counter) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: this CPU's own element of a per-CPU array.
        unsafe { *counter += 1 };
    }
}

/// Implements the library's tables over the eBPF maps.
pub(super) struct Maps;

// Not on the established path, and called from several places: separate functions keep their keys
// out of the hooks' 512 bytes of stack.
impl PolicyTables for Maps {
    #[inline(never)]
    fn class(&self, buffer: Buffer, addr: &Addr) -> u32 {
        match self.identity(addr).class(buffer) {
            Identity::BY_PREFIX => self.class_by_prefix(buffer, addr),
            class => class,
        }
    }

    #[inline(never)]
    fn grant(&self, buffer: Buffer, ruleset: u32, class: u32) -> Grant {
        let mut key = RuleKey {
            buffer,
            ruleset,
            class,
        };
        // SAFETY: not preallocated, see above.
        if let Some(grant) = unsafe { RULES.get(&key) } {
            return *grant;
        }
        if class == 0 {
            return Grant::default();
        }
        key.class = 0;
        // SAFETY: not preallocated, see above.
        match unsafe { RULES.get(&key) } {
            Some(grant) => *grant,
            None => Grant::default(),
        }
    }

    #[inline(never)]
    fn port(&self, key: &PortKey, port: u16) -> bool {
        // SAFETY: not preallocated, see above.
        unsafe { PORTS.get(key) }.is_some_and(|block| block.contains(port))
    }
}

impl Tables for Maps {
    type MemoRef<'a> = &'a mut Memo;

    #[inline(always)]
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(slot)
    }

    #[inline(always)]
    fn identity(&self, addr: &Addr) -> Identity {
        // SAFETY: not preallocated, see above.
        match unsafe { ADDRESSES.get(addr) } {
            Some(identity) => *identity,
            None => Identity::UNKNOWN,
        }
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> bool {
        // SAFETY: not preallocated, see above; the value isn't read.
        unsafe { SERVICES.get(key) }.is_some()
    }

    #[inline(never)]
    fn class_by_prefix(&self, buffer: Buffer, addr: &Addr) -> u32 {
        let key = CidrKey {
            buffer,
            addr: *addr,
        };
        match CIDRS.get(&Key::new(CidrKey::BUFFER_BITS + 128, key)) {
            Some(class) => *class,
            None => 0,
        }
    }

    #[inline(always)]
    fn is_tunnel_port(&self, port: u16) -> bool {
        let word = TUNNELS.get(TunnelPorts::word(port));
        // The check for a missing word is for the verifier.
        word.is_none_or(|word| word.get() & TunnelPorts::bit(port) != 0)
    }

    #[inline(always)]
    fn memo(&self, place: u32) -> Option<&mut Memo> {
        // SAFETY: this CPU's own element; hooks run with softirqs off.
        MEMO.get_ptr_mut(place).map(|memo| unsafe { &mut *memo })
    }

    #[inline(always)]
    fn tag(&self, key: &ConnectionKey) -> u64 {
        buckets::tag(key)
    }

    #[inline(always)]
    fn connection(&self, tag: u64, key: &ConnectionKey) -> Option<&SharedConnection> {
        buckets::connection(tag, key)
    }

    #[inline(always)]
    fn opening(&self, tag: u64, key: &ConnectionKey, clock: Clock) -> Option<&SharedConnection> {
        buckets::opening(tag, key, clock)
    }

    #[inline(always)]
    fn open(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        clock: Clock,
    ) -> bool {
        buckets::open(tag, key, connection, clock)
    }

    #[inline(always)]
    fn promote(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        slot: u32,
        clock: Clock,
    ) -> bool {
        buckets::promote(tag, key, connection, slot, &clock)
    }

    #[inline(always)]
    fn swap(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        clock: Clock,
    ) -> bool {
        buckets::swap(tag, key, connection, &clock)
    }

    #[inline(always)]
    fn forget(&self, tag: u64, key: &ConnectionKey) -> bool {
        buckets::forget(tag, key)
    }

    #[inline(always)]
    fn quota(&self, slot: u32) -> Option<&SharedQuota> {
        // CPUs may race here; at worst a few connections more or fewer are kept.
        QUOTA.get(slot)
    }

    #[inline(always)]
    fn gone(&self, slot: u32) -> u32 {
        GONE.get(slot).map(Shared::get).unwrap_or_default()
    }

    #[inline(always)]
    fn local(&self, addr: &Addr) -> u32 {
        // SAFETY: not preallocated, see above.
        unsafe { LOCALS.get(addr) }.copied().unwrap_or_default()
    }

    #[inline(never)]
    fn claimed(&self, addr: &Addr) -> Claim {
        // SAFETY: not preallocated, see above.
        unsafe { CLAIMS.get(addr) }.copied().unwrap_or_default()
    }

    #[inline(never)]
    fn claim(&self, addr: &Addr, endpoint: &Endpoint, slot: u32) -> bool {
        let held = self.claimed(addr);
        let held_by = self.endpoint(held.slot);
        if held.endpoint != 0 && held_by.is_some_and(|held_by| held_by.id == held.endpoint) {
            return held.endpoint == endpoint.id;
        }
        let within = self
            .quota(slot)
            .is_some_and(|quota| quota.claim(endpoint.id));
        let claim = Claim {
            endpoint: endpoint.id,
            slot,
        };
        if !within {
            return false;
        }
        if held.endpoint != 0 {
            // The holder no longer exists.
            let _ = CLAIMS.remove(addr);
        }
        // If two claim at once, the first one gets the address.
        CLAIMS.insert(addr, &claim, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn monotonic(&self) -> u64 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn count(&self, stat: Stat) {
        count(stat);
    }
}
