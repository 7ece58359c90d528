//! Tests of [`super`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use ringfence_ebpf::abi::{Grant, PortBlock};

use super::super::testing::Faulty;
use super::*;

const BY_PREFIX: u32 = Identity::BY_PREFIX;

/// Returns the element of a one-element map of addresses after a buffer is written.
fn written(
    held: Identity,
    buffer: Buffer,
    who: Option<(u32, u32)>,
    class: u32,
) -> Option<Identity> {
    let class = (class != BY_PREFIX).then_some(class);
    address(Some(held), buffer, who, class)
}

#[test]
fn writing_one_buffers_class_of_an_address_leaves_the_others_as_it_was() {
    let held = |classes| Identity {
        workload: 16,
        flags: 0,
        classes,
    };
    let now = written(held([7, BY_PREFIX]), 1, Some((16, 0)), 9);
    assert_eq!(now, Some(held([7, 9])));
}

#[test]
fn an_address_stays_as_long_as_a_buffer_has_a_class_for_it() {
    let nameless = |classes| Identity {
        workload: Identity::OUTSIDE,
        flags: 0,
        classes,
    };
    let held = Identity {
        workload: 16,
        ..nameless([7, 9])
    };
    let rules = written(held, 1, None, BY_PREFIX).expect("still there");
    assert_eq!(rules, nameless([7, BY_PREFIX]));
    assert_eq!(written(rules, 0, None, BY_PREFIX), None);
}

/// The kernel's side: the active buffer, and maps in which a write may fail.
struct Kernel {
    addresses: Faulty<Addr, Identity>,
    cidrs: Faulty<(CidrKey, u32), u32>,
    rules: Faulty<RuleKey, Grant>,
    ports: Faulty<PortKey, PortBlock>,
    services: Faulty<ServiceKey, u32>,
    writes_left: Rc<Cell<usize>>,
    active: Buffer,
}

impl Kernel {
    fn new() -> Self {
        let writes_left = Rc::new(Cell::new(usize::MAX));
        Self {
            addresses: Faulty::sharing(BTreeMap::new(), &writes_left),
            cidrs: Faulty::sharing(BTreeMap::new(), &writes_left),
            rules: Faulty::sharing(BTreeMap::new(), &writes_left),
            ports: Faulty::sharing(BTreeMap::new(), &writes_left),
            services: Faulty::sharing(BTreeMap::new(), &writes_left),
            writes_left,
            active: 0,
        }
    }

    fn maps(&mut self) -> PolicyMaps<'_> {
        PolicyMaps {
            addresses: &mut self.addresses,
            cidrs: &mut self.cidrs,
            rules: &mut self.rules,
            ports: &mut self.ports,
            services: &mut self.services,
        }
    }

    fn dump(&self) -> Dump {
        Dump {
            addresses: self.addresses.entries.clone(),
            cidrs: self.cidrs.entries.clone(),
            rules: self.rules.entries.clone(),
            ports: self.ports.entries.clone(),
            services: self.services.entries.clone(),
        }
    }

    /// Returns the policy of a buffer, without anything that isn't buffered.
    fn policy(&self, buffer: Buffer) -> Dump {
        let Dump {
            addresses,
            mut cidrs,
            mut rules,
            mut ports,
            services: _,
        } = self.dump();
        cidrs.retain(|(key, _), _| key.buffer == buffer);
        rules.retain(|key, _| key.buffer == buffer);
        ports.retain(|key, _| key.buffer == buffer);
        let classes = addresses.into_iter().filter_map(|(addr, identity)| {
            let class = identity.class(buffer);
            let classes = [class, class];
            let nameless = Identity {
                classes,
                ..Identity::UNKNOWN
            };
            (class != BY_PREFIX).then_some((addr, nameless))
        });
        Dump {
            addresses: classes.collect(),
            cidrs,
            rules,
            ports,
            services: BTreeMap::new(),
        }
    }
}

/// Returns a name's id, which is fixed here: the length of the name.
fn id(name: &str) -> u32 {
    16 + u32::try_from(name.len()).unwrap_or_default()
}

/// Returns the contents of the maps after both buffers were written completely.
fn whole(tables: &Tables) -> Dump {
    let mut kernel = Kernel::new();
    let mut buffers = Buffers::new(0, 0);
    buffers.compare(&Dump::default(), tables, |name| Some(id(name)));
    for buffer in [0, 1] {
        let done = buffers.bring(kernel.maps(), buffer, tables, id);
        done.expect("no write fails");
    }
    kernel.dump()
}

/// Applies tables as the datapath does: write the standby buffer, flip, bring the other up to
/// date.
fn apply(buffers: &mut Buffers, kernel: &mut Kernel, tables: &Tables) -> Result<(), DatapathError> {
    let standby = buffers.standby();
    buffers.bring(kernel.maps(), standby, tables, id)?;
    (buffers.active, kernel.active) = (standby, standby);
    buffers.bring(kernel.maps(), standby ^ 1, tables, id)
}

prop_compose! {
    /// Tables with few different keys, so that generations have many in common.
    fn tables()(
        classes in btree_map(0_u8..6, 0_u32..4, 0..6),
        identities in btree_map(0_u8..6, (0_usize..3, 0_u32..2), 0..6),
        cidrs in btree_map((0_u8..3, 100_u8..104), 0_u32..4, 0..4),
        rules in btree_map((1_u32..4, 0_u32..4), (0_u32..3, 0_u32..3), 0..6),
        ports in btree_map((1_u32..3, 6_u16..8, 0_u16..3), any::<u64>(), 0..4),
        services in btree_set((0_u8..3, 79_u16..82), 0..4),
        ranges in btree_map((0_u8..3, 100_u8..104), 0_u32..4, 0..4),
    ) -> Tables {
        let addr = |last| Addr::v4([10, 0, 0, last]);
        let name = |length| Arc::from("x".repeat(length));
        let grant = |(enforced, staged)| Grant { enforced, staged };
        let service = |last, port| ServiceKey { addr: addr(last), protocol: 6, port };
        let block = |bits| {
            let mut block = PortBlock::default();
            block.0[0] = bits;
            block
        };
        Tables {
            classes: classes.into_iter().map(|(k, v)| (addr(k), v)).collect(),
            identities: identities.into_iter().map(|(k, (n, f))| (addr(k), (name(n), f))).collect(),
            cidrs: cidrs.into_iter().map(|((k, len), v)| ((addr(k), len), v)).collect(),
            rules: rules.into_iter().map(|(k, v)| (k, grant(v))).collect(),
            ports: ports.into_iter().map(|(k, v)| (k, block(v))).collect(),
            services: services.into_iter().map(|(last, port)| (service(last, port), ())).collect(),
            ranges: ranges.into_iter().map(|((k, len), v)| ((addr(k), len), v)).collect(),
            ..Tables::default()
        }
    }
}

/// What goes wrong in one call.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    /// The n-th write fails; the next call applies the next change.
    Write(usize),
    /// The same, and the agent ends: the next agent only has the maps.
    Crash(usize),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::Nothing),
        2 => (0_usize..40).prop_map(Fault::Write),
        1 => (0_usize..40).prop_map(Fault::Crash),
    ]
}

proptest! {
    #[test]
    fn any_history_of_changes_and_faults_ends_where_a_full_write_does(
        history in vec((tables(), fault()), 1..12),
    ) {
        let mut kernel = Kernel::new();
        let mut buffers = Buffers::new(0, 0);
        let (mut told, mut in_force) = (Tables::default(), Tables::default());
        let mut fresh = false;
        for (tables, fault) in history {
            match std::mem::take(&mut fresh) {
                true => buffers.compare(&kernel.dump(), &tables, |name| Some(id(name))),
                false => buffers.note(&Keys::between(&told, &tables)),
            }
            let left = match fault {
                Fault::Nothing => usize::MAX,
                Fault::Write(n) | Fault::Crash(n) => n,
            };
            kernel.writes_left.set(left);
            let before = kernel.active;
            let done = apply(&mut buffers, &mut kernel, &tables);
            if done.is_ok() || kernel.active != before {
                in_force = tables.clone();
            }
            // Packets never see a partial update.
            let seen = kernel.policy(kernel.active);
            let mut full = Kernel::new();
            full.addresses.entries = whole(&in_force).addresses;
            full.cidrs.entries = whole(&in_force).cidrs;
            full.rules.entries = whole(&in_force).rules;
            full.ports.entries = whole(&in_force).ports;
            prop_assert_eq!(seen, full.policy(kernel.active));
            if done.is_ok() {
                prop_assert!(buffers.are_level());
                prop_assert_eq!(kernel.dump(), whole(&tables));
                let entries = buffers.entries().map(|(_, entries)| entries);
                let dump = kernel.dump();
                let held = [dump.addresses.len(), dump.cidrs.len(), dump.rules.len(), dump.ports.len(), dump.services.len()];
                prop_assert_eq!(entries, held);
            } else if matches!(fault, Fault::Crash(_)) {
                buffers = Buffers::new(kernel.active, 0);
                fresh = true;
            }
            told = tables;
        }
    }
}
