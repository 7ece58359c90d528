//! Interning of strings and label sets.
//!
//! A cluster of 100,000 pods has only a few thousand distinct labels. When a pool has doubled in
//! size, it drops the values that nothing else references, so months of churn in names and hashes
//! don't accumulate.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use hashbrown::HashTable;

/// A map whose iteration order is never observable. Each process uses its own random key, so
/// nobody can choose labels that collide.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
/// A set with the same properties.
pub(crate) type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

/// An interned string.
pub(crate) type Text = Arc<str>;

/// Values of one type, each stored once.
#[derive(Debug)]
pub(crate) struct Pool<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// The size at which values referenced only by the pool are dropped.
    sweep_at: usize,
}

/// Smaller pools aren't swept.
const SMALL: usize = 1024;

impl<T: ?Sized> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            sweep_at: self.sweep_at,
        }
    }
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self {
            known: HashSet::default(),
            sweep_at: SMALL,
        }
    }
}

impl<T: ?Sized + Hash + Eq> Pool<T> {
    /// Returns the stored value equal to this one, storing it first if necessary.
    pub(crate) fn get(&mut self, value: &T) -> Arc<T>
    where
        for<'v> Arc<T>: From<&'v T>,
    {
        if let Some(known) = self.known.get(value) {
            return Arc::clone(known);
        }
        self.add(Arc::from(value))
    }

    fn add(&mut self, value: Arc<T>) -> Arc<T> {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (2 * self.known.len()).max(SMALL);
        }
        self.known.insert(Arc::clone(&value));
        value
    }
}

/// Label sets, each stored once and looked up by content: most pods carry the same labels as some
/// other pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelSets {
    known: HashTable<Arc<[(Text, Text)]>>,
    state: foldhash::fast::RandomState,
    sweep_at: usize,
}

impl LabelSets {
    /// Returns the stored set with these labels, storing it first if necessary.
    pub(crate) fn get(
        &mut self,
        texts: &mut Pool<str>,
        labels: &BTreeMap<String, String>,
    ) -> Arc<[(Text, Text)]> {
        let pairs = || labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let hash = hash(&self.state, pairs());
        let same = |set: &Arc<[(Text, Text)]>| {
            let mut both = set.iter().zip(labels);
            let equal =
                |((a, b), (k, v)): (&(Text, Text), (&String, &String))| **a == **k && **b == **v;
            set.len() == labels.len() && both.all(equal)
        };
        if let Some(known) = self.known.find(hash, same) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (2 * self.known.len()).max(SMALL);
        }
        let set: Arc<[(Text, Text)]> = pairs().map(|(k, v)| (texts.get(k), texts.get(v))).collect();
        let rehash = |set: &Arc<[(Text, Text)]>| {
            crate::intern::hash(&self.state, set.iter().map(|(k, v)| (&**k, &**v)))
        };
        self.known.insert_unique(hash, Arc::clone(&set), rehash);
        set
    }
}

fn hash<'l>(
    state: &foldhash::fast::RandomState,
    labels: impl Iterator<Item = (&'l str, &'l str)>,
) -> u64 {
    let mut hasher = state.build_hasher();
    labels.for_each(|label| label.hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_go() {
        let mut pool: Pool<str> = Pool::default();
        let kept = pool.get("kept");
        assert!(Arc::ptr_eq(&kept, &pool.get("kept")));
        for i in 0..10 * SMALL {
            pool.get(i.to_string().as_str());
        }
        assert!(pool.known.len() <= SMALL);
        assert!(Arc::ptr_eq(&kept, &pool.get("kept")));
    }

    #[test]
    fn equal_label_sets_are_one_and_unused_ones_go() {
        let (mut texts, mut sets) = (Pool::default(), LabelSets::default());
        let labels = |value: &str| BTreeMap::from([("k".to_owned(), value.to_owned())]);
        let kept = sets.get(&mut texts, &labels("kept"));
        for i in 0..10 * SMALL {
            sets.get(&mut texts, &labels(&i.to_string()));
        }
        assert!(sets.known.len() <= SMALL);
        assert!(Arc::ptr_eq(&kept, &sets.get(&mut texts, &labels("kept"))));
        let none = sets.get(&mut texts, &BTreeMap::new());
        assert!(none.is_empty() && !Arc::ptr_eq(&kept, &none));
    }
}
