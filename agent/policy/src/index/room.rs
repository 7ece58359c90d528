//! Memory that namespaces share: what one of them writes leaves room for others.

use std::collections::BTreeMap;

use crate::intern::Text;

/// Bytes that objects of one sort take by namespace, and together.
///
/// One namespace may have three quarters, and up to an equal share of all at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    spaces: BTreeMap<Text, usize>,
    total: usize,
    /// How many there may be; any number if `None`.
    most: Option<usize>,
}

impl Room {
    pub(super) const fn bound(&mut self, bytes: usize) {
        self.most = Some(bytes);
    }

    /// Whether a namespace's object may take so many bytes that took `before` until now.
    pub(super) fn has(&self, namespace: &str, before: usize, now: usize) -> bool {
        let Some(most) = self.most else { return true };
        let own = self.spaces.get(namespace).map_or(0, |own| own - before);
        let own = own + now;
        let fits = self.total - before + now <= most;
        own <= most - most / 4 && (fits || own <= most / self.spaces.len().max(1))
    }

    /// Counts what one takes.
    pub(super) fn count(&mut self, namespace: &str, before: usize, now: usize) {
        self.total = self.total + now - before;
        let own = self.spaces.entry(namespace.into()).or_default();
        *own = *own + now - before;
        if *own == 0 {
            self.spaces.remove(namespace);
        }
    }
}
