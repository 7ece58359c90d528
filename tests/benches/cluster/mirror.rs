//! A compiler beside the agent: what each change makes of the node's entries.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use ringfence_ebpf::abi::{Addr, Identity};
use ringfence_policy::compile::{Capacity, Compiler};
use ringfence_policy::config::Config;
use ringfence_policy::index::{Index, Scope};
use ringfence_policy::model::{Object, Parsed};
use ringfence_policy::tables::Tables;
use ringfence_tests::clusters::NODE;
use serde_json::Value;

use crate::changes::Change;
use crate::kernel::{self, Mark};
use ringfence_policy::model::ObjectKey;

pub(crate) struct Mirror {
    index: Index,
    compiler: Compiler,
    /// The class of each address that has an element, before the last change.
    classes: HashMap<Addr, u32>,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        Self {
            index: Index::new(Config::default()),
            compiler: Compiler::keyed(Scope::Node(NODE.to_owned()), kernel::id_key())
                .with_capacity(Capacity::MAPS),
            classes: HashMap::new(),
        }
    }

    /// An object of the cluster as it is at first.
    pub(crate) fn take(&mut self, object: Value) -> Result<()> {
        match Object::from_value(object).context("an object doesn't parse")? {
            Parsed::Object(object) => self.index.apply(*object),
            Parsed::Ignored => bail!("an object is ignored"),
        }
        Ok(())
    }

    /// Returns an entry of the first tables, once every object is there. `pods` run on the
    /// node.
    pub(crate) fn first(&mut self, pods: usize) -> Result<Mark> {
        self.compiler.update(&mut self.index);
        let tables = self.compiler.tables();
        if tables.endpoints.len() != pods {
            bail!("{} pods on the node", tables.endpoints.len());
        }
        let known = tables.identities.keys().chain(tables.classes.keys());
        let known = known.map(|addr| (*addr, class(tables, addr)));
        self.classes = known.filter_map(|(a, class)| Some((a, class?))).collect();
        let rule = tables.rules.iter().next().context("no rules")?;
        let ((ruleset, class), grant) = rule;
        Ok(Mark::Rule(*ruleset, *class, Some(*grant)))
    }

    /// Follows a change; gives an entry that it alters, if there is any.
    pub(crate) fn follow(&mut self, change: &Change) -> Result<Option<Mark>> {
        match change {
            Change::Put(object) => self.take(object.clone())?,
            Change::Delete(resource, namespace, name) => {
                let kind = match *resource {
                    "pods" => "Pod",
                    "networkpolicies" => "NetworkPolicy",
                    other => bail!("{other} aren't deleted here"),
                };
                self.index.delete(&ObjectKey::new(kind, namespace, name));
            }
        }
        let done = self.compiler.update(&mut self.index);
        let tables = self.compiler.tables();
        let mut mark = None;
        for addr in &done.keys.addresses {
            let now = class(tables, addr);
            let before = match now {
                Some(class) => self.classes.insert(*addr, class),
                None => self.classes.remove(addr),
            };
            if before != now {
                mark = mark.or(Some(Mark::Address(*addr, now)));
            }
        }
        let mut rules = done.keys.rules.iter();
        let rule = || {
            rules
                .next()
                .map(|(r, c)| Mark::Rule(*r, *c, tables.rules.get(&(*r, *c)).copied()))
        };
        Ok(mark.or_else(rule))
    }

    /// The tables as they should be.
    pub(crate) fn tables(&self) -> &Tables {
        self.compiler.tables()
    }

    /// How many policies have no room.
    pub(crate) fn without_room(&self) -> usize {
        let problems = self.index.problems();
        let room = problems.iter().filter(|p| p.key_or_field == "capacity");
        room.count()
    }

    /// Whether some peer in use names an address' pod.
    pub(crate) fn is_peer(&self, addr: &Addr) -> bool {
        let class = self.compiler.tables().classes.get(addr);
        class.is_some_and(|class| *class != 0)
    }

    /// Whether an entry is what the newest objects say.
    pub(crate) fn is_current(&self, mark: &Mark) -> bool {
        let tables = self.compiler.tables();
        match mark {
            Mark::Address(addr, now) => class(tables, addr) == *now,
            Mark::Rule(ruleset, class, now) => {
                tables.rules.get(&(*ruleset, *class)).copied() == *now
            }
        }
    }
}

/// The class in an address' element, if it has one.
fn class(tables: &Tables, addr: &Addr) -> Option<u32> {
    let class = tables.classes.get(addr).copied();
    let named = tables.identities.contains_key(addr);
    class.or_else(|| named.then_some(Identity::BY_PREFIX))
}
