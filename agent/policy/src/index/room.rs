//! Memory shared among namespaces, limited so that each leaves room for others.

use std::collections::BTreeMap;

use crate::intern::Text;

/// Bytes used by objects of one sort, by namespace and in total.
///
/// One namespace may use up to three quarters; an equal share is open to it even if the total is
/// exhausted.
#[derive(Clone, Debug, Default)]
pub(super) struct NamespaceUsage {
    spaces: BTreeMap<Text, usize>,
    total: usize,
    /// The maximum total; `None` means unlimited.
    most: Option<usize>,
}

impl NamespaceUsage {
    pub(super) const fn bound(&mut self, bytes: usize) {
        self.most = Some(bytes);
    }

    /// Reports whether an object of a namespace may grow or shrink from `before` to `now` bytes.
    pub(super) fn has(&self, namespace: &str, before: usize, now: usize) -> bool {
        let Some(most) = self.most else { return true };
        let own = self.spaces.get(namespace).map_or(0, |own| own - before);
        let own = own + now;
        let fits = self.total - before + now <= most;
        own <= most - most / 4 && (fits || own <= most / self.spaces.len().max(1))
    }

    /// Counts the change of an object's size.
    pub(super) fn count(&mut self, namespace: &str, before: usize, now: usize) {
        self.total = self.total + now - before;
        let own = self.spaces.entry(namespace.into()).or_default();
        *own = *own + now - before;
        if *own == 0 {
            self.spaces.remove(namespace);
        }
    }
}
