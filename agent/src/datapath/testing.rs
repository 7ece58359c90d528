//! In-memory maps whose n-th write fails.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use aya::maps::MapError;

use super::maps::{Held, Table};

/// A map that shares with others the number of writes that are left before one fails.
pub(super) struct Faulty<K, V> {
    pub(super) entries: BTreeMap<K, V>,
    writes_left: Rc<Cell<usize>>,
}

impl<K, V> Faulty<K, V> {
    pub(super) fn new(entries: BTreeMap<K, V>, writes_left: usize) -> Self {
        Self::sharing(entries, &Rc::new(Cell::new(writes_left)))
    }

    pub(super) fn sharing(entries: BTreeMap<K, V>, writes_left: &Rc<Cell<usize>>) -> Self {
        Self {
            entries,
            writes_left: Rc::clone(writes_left),
        }
    }

    /// Makes all further writes succeed.
    pub(super) fn heal(&self) {
        self.writes_left.set(usize::MAX);
    }

    fn spend(&self) -> Result<(), MapError> {
        let left = self.writes_left.get().checked_sub(1);
        self.writes_left.set(left.ok_or(MapError::KeyNotFound)?);
        Ok(())
    }
}

impl<K: Ord + Copy, V: Copy> Table<K, V> for Faulty<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.spend()?;
        self.entries.insert(*key, *value);
        Ok(())
    }

    fn take(&mut self, key: &K) -> Result<(), MapError> {
        self.spend()?;
        self.entries.remove(key);
        Ok(())
    }
}

impl<K: Ord + Copy, V: Copy> Held<K, V> for Faulty<K, V> {
    fn held(&self, key: &K) -> Result<Option<V>, MapError> {
        Ok(self.entries.get(key).copied())
    }
}
