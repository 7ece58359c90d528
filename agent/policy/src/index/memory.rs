//! Limits the agent's memory for Services and EndpointSlices, so that each namespace leaves room
//! for others.
//!
//! Of an object without room only the name is kept, until it is applied again with room for it. A
//! Service is hidden until then.

use std::collections::BTreeSet;

use crate::model::{EndpointSlice, Service};

use super::{Index, room::NamespaceUsage};

/// Namespace and name.
type Key = (String, String);

/// The kinds of objects that share the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    Service,
    EndpointSlice,
}

/// Usage by namespace, and the objects that were refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    room: NamespaceUsage,
    refused: BTreeSet<(Sort, Key)>,
}

impl Memory {
    /// Reports whether there is room for an object whose size changes from `before` to `now`, and
    /// counts it; without room it counts as zero.
    fn admits(&mut self, sort: Sort, key: &Key, before: usize, now: usize) -> bool {
        let (namespace, _) = key;
        let fits = self.room.has(namespace, before, now);
        let taken = if fits { now } else { 0 };
        self.room.count(namespace, before, taken);
        match fits {
            true => self.refused.remove(&(sort, key.clone())),
            false => self.refused.insert((sort, key.clone())),
        };
        fits
    }
}

impl Index {
    /// Limits the total size of Services and EndpointSlices to about this many bytes, shared out
    /// like those for [texts](Index::with_room_for_texts).
    ///
    /// An object without room stays unknown until it is applied again with room for it.
    #[must_use]
    pub fn with_room_for_services(mut self, bytes: usize) -> Self {
        self.memory.room.bound(bytes);
        self
    }

    /// Returns an added Service if there is room for it; pass `None` for a removed one.
    pub(super) fn admit_service(&mut self, key: &Key, new: Option<Service>) -> Option<Service> {
        let before = self.services.get(key).map_or(0, Service::bytes);
        let now = new.as_ref().map_or(0, Service::bytes);
        let fits = self.memory.admits(Sort::Service, key, before, now);
        new.filter(|_| fits)
    }

    /// Stores an EndpointSlice, or removes it with `None`. Returns the previous one.
    pub(super) fn keep_slice(
        &mut self,
        key: Key,
        slice: Option<EndpointSlice>,
    ) -> Option<EndpointSlice> {
        let before = self.slices.get(&key).map_or(0, EndpointSlice::bytes);
        let now = slice.as_ref().map_or(0, EndpointSlice::bytes);
        let fits = self.memory.admits(Sort::EndpointSlice, &key, before, now);
        match slice.filter(|_| fits) {
            Some(slice) => self.slices.insert(key, slice),
            None => self.slices.remove(&key),
        }
    }

    /// Returns the Services and EndpointSlices for which there is no room.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &(Sort, Key)> {
        self.memory.refused.iter()
    }

    /// Returns namespace and name of the refused objects of a sort.
    pub(super) fn refused_names(&self, sort: Sort) -> impl Iterator<Item = &Key> {
        let all = self.refused().filter(move |(other, _)| *other == sort);
        all.map(|(_, key)| key)
    }

    pub(super) fn refuses_services(&self) -> bool {
        self.refused_names(Sort::Service).next().is_some()
    }
}
