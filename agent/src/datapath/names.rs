//! Workload names by id. They are kept in a pinned map that the kernel doesn't read, so that
//! counters keep their names across restarts; ids are never reused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use ringfence_ebpf::abi::{Identity, Name};
use ringfence_policy::compile::IdKey;

use super::buckets;
use super::catalog::MapName;
use super::error::DatapathError;
use super::fields::AgentField;
use super::maps::{Maps, Table as _, entries, map_error};
use super::written::written;

/// Names by id, for readers on other threads.
pub(super) type Shared = Arc<RwLock<BTreeMap<u32, Arc<str>>>>;

/// All workloads that have an id, until their name is no longer in use (see `idle`).
pub(super) struct Names {
    ids: BTreeMap<Arc<str>, u32>,
    /// Number of names per namespace.
    own: BTreeMap<Box<str>, usize>,
    names: Shared,
    next: u32,
    /// Key of the hashes in long names.
    key: IdKey,
    /// Whether a name was refused for lack of room since the last call of [`Names::take_refused`].
    refused: bool,
}

impl Names {
    /// Reads the names from the pinned maps.
    pub(super) fn load(maps: &mut Maps) -> Result<Self, DatapathError> {
        let mut ids = BTreeMap::new();
        let mut own: BTreeMap<Box<str>, usize> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (id, name) in entries(MapName::Names, &maps.names)? {
            let name: Arc<str> = text(&name).into();
            *own.entry(namespace(&name).into()).or_default() += 1;
            ids.insert(Arc::clone(&name), id);
            names.insert(id, name);
        }
        let highest = names.keys().next_back().map_or(0, |id| id + 1);
        let kept = u32::try_from(maps.agent(AgentField::NextWorkload)?).unwrap_or(u32::MAX);
        Ok(Self {
            ids,
            own,
            names: Arc::new(RwLock::new(names)),
            next: highest.max(kept).max(Identity::FIRST),
            key: buckets::id_key(maps)?,
            refused: false,
        })
    }

    /// Returns a handle for readers on other threads.
    pub(super) fn shared(&self) -> Shared {
        Arc::clone(&self.names)
    }

    /// Returns the id of a workload, assigning one if it has none.
    pub(super) fn id(&mut self, maps: &mut Maps, name: &str) -> Result<u32, DatapathError> {
        if let Some(id) = self.known(name) {
            return Ok(id);
        }
        let name = shortened(name, &self.key);
        if !self.has_room(&name, MapName::Names.capacity() as usize) {
            // Names are only for display: a full table must not delay policy.
            self.refused = true;
            return Ok(Identity::UNNAMED);
        }
        let id = self.next;
        // Store the counter first: losing an id is harmless, assigning one twice isn't.
        maps.set_agent(AgentField::NextWorkload, u64::from(id) + 1)?;
        maps.names
            .insert(super::maps::Raw(id), super::maps::Raw(bytes(&name)), 0)
            .inspect(|()| written())
            .map_err(|error| map_error("writing", MapName::Names, &error))?;
        self.next = id + 1;
        let name: Arc<str> = name.into();
        *self.own.entry(namespace(&name).into()).or_default() += 1;
        self.ids.insert(Arc::clone(&name), id);
        if let Ok(mut names) = self.names.write() {
            names.insert(id, name);
        }
        Ok(id)
    }

    /// Releases a name. Its id is never assigned again, so a remaining reference shows a number.
    pub(super) fn give_up(&mut self, maps: &mut Maps, id: u32) -> Result<(), DatapathError> {
        maps.names
            .take(&id)
            .map_err(|error| map_error("removing from", MapName::Names, &error))?;
        let name = match self.names.write() {
            Ok(mut names) => names.remove(&id),
            Err(_) => None,
        };
        if let Some(name) = name {
            self.ids.remove(&name);
            if let Some(own) = self.own.get_mut(namespace(&name)) {
                *own -= 1;
                if *own == 0 {
                    self.own.remove(namespace(&name));
                }
            }
        }
        Ok(())
    }

    /// Reports whether a name was refused for lack of room since the last call.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// Returns all ids that have a name.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.values().copied()
    }

    /// Reports whether there is room for one more name, out of `all`. A namespace may have a
    /// quarter of them at most: names stay for a while after their workloads are gone, and one
    /// that keeps creating workloads under new names would leave no room for others.
    fn has_room(&self, name: &str, all: usize) -> bool {
        let own = self.own.get(namespace(name)).copied().unwrap_or_default();
        self.ids.len() < all && own < all / 4
    }

    /// Returns the id of a workload, if it has one.
    pub(super) fn known(&self, name: &str) -> Option<u32> {
        self.ids.get(&*shortened(name, &self.key)).copied()
    }

    /// Returns the key of ids and of long names.
    pub(super) const fn key(&self) -> IdKey {
        self.key
    }

    /// Returns the number of names.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns the name of a workload id.
    pub(super) fn name(&self, id: u32) -> String {
        lookup(&self.names, id)
    }
}

/// Returns the namespace of a workload.
fn namespace(name: &str) -> &str {
    name.split_once('/')
        .map_or(name, |(namespace, _)| namespace)
}

/// Returns the name of a workload id.
pub(super) fn lookup(names: &Shared, id: u32) -> String {
    match id {
        Identity::OUTSIDE => "outside".to_owned(),
        Identity::NODE => "node".to_owned(),
        Identity::UNNAMED => "other".to_owned(),
        Identity::UNKNOWN_POD => "unknown".to_owned(),
        _ => names
            .read()
            .ok()
            .and_then(|names| names.get(&id).map(|name| name.as_ref().to_owned()))
            .unwrap_or_else(|| format!("workload-{id}")),
    }
}

/// Shortens a name to fit. Kubernetes names fit (63 + 1 + 63 bytes) unless an owner's name is
/// longer than a label may be; then a hash of the full name replaces its end. The hash is keyed by
/// the tables' key, so that nobody can find a name that collides with another one.
fn shortened<'n>(name: &'n str, key: &IdKey) -> Cow<'n, str> {
    let room = size_of::<Name>();
    if name.len() <= room {
        return name.into();
    }
    let hash = key.hash(name.as_bytes());
    let mut end = room - 17;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{hash:016x}", &name[..end]).into()
}

fn bytes(name: &str) -> Name {
    let mut bytes = [0; size_of::<Name>()];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Name(bytes)
}

fn text(name: &Name) -> String {
    let end = name
        .0
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(name.0.len());
    String::from_utf8_lossy(&name.0[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_takes_a_quarter_of_the_names_and_leaves_the_others_room() {
        let mut names = Names {
            ids: BTreeMap::new(),
            own: BTreeMap::new(),
            names: Shared::default(),
            next: Identity::FIRST,
            key: IdKey::FIXED,
            refused: false,
        };
        let mut give = |name: String| {
            let has_room = names.has_room(&name, 40);
            if has_room {
                *names.own.entry(namespace(&name).into()).or_default() += 1;
                let id = u32::try_from(names.ids.len()).expect("few");
                names.ids.insert(name.into(), id);
            }
            has_room
        };
        let evil = (0..100).filter(|n| give(format!("evil/job-{n}"))).count();
        assert_eq!(evil, 10);
        assert!(give("bank/ledger".into()));
        let others = (0..100).filter(|n| give(format!("s{n}/a"))).count();
        assert_eq!(others, 29, "forty together");
    }

    #[test]
    fn a_name_survives_the_map() {
        let cut = &"é".repeat(64)[..126];
        for name in ["bank/service.account", &"x".repeat(128), cut] {
            let short = shortened(name, &IdKey::FIXED);
            assert_eq!(text(&bytes(&short)), name);
        }
    }

    #[test]
    fn names_too_long_for_the_map_stay_distinct_wherever_their_characters_end() {
        for shift in 0..4 {
            let long = |end: &str| format!("{}{}{end}", "x".repeat(shift), "🦀".repeat(40));
            let [a, b] = [long("a"), long("b")];
            let short = [&a, &b].map(|name| shortened(name, &IdKey::FIXED).into_owned());
            assert_ne!(short[0], short[1]);
            for name in short {
                assert!(name.len() <= 128 && name.contains('~'), "{name}");
                assert_eq!(text(&bytes(&name)), name);
            }
        }
    }

    #[test]
    fn what_a_long_name_is_called_depends_on_the_tables_key() {
        let name = "x".repeat(200);
        let other = IdKey::from_secret(b"another");
        assert_ne!(shortened(&name, &IdKey::FIXED), shortened(&name, &other));
    }
}
