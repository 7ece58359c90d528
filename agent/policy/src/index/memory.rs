//! The agent's memory for Services and EndpointSlices: whoever writes them leaves room for
//! others'.
//!
//! Of one for which there is no room only the name is kept, until it comes anew with room
//! for it. A Service is hidden until then.

use std::collections::BTreeSet;

use crate::model::{EndpointSlice, Service};

use super::{Index, room::Room};

/// Namespace and name.
type Key = (String, String);

/// What memory is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    Service,
    EndpointSlice,
}

/// Who has room, and who found none.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    room: Room,
    refused: BTreeSet<(Sort, Key)>,
}

impl Memory {
    /// Whether there is room for an object that took some bytes and now takes others;
    /// without room it takes none.
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
    /// An index in which Services and EndpointSlices have room for about this many bytes
    /// together, shared out like those for [texts](Index::with_room_for_texts).
    ///
    /// One that has no room isn't known until it comes anew with room for it.
    #[must_use]
    pub fn with_room_for_services(mut self, bytes: usize) -> Self {
        self.memory.room.bound(bytes);
        self
    }

    /// A Service that comes, or goes with `None`, if there is room for it.
    pub(super) fn admit_service(&mut self, key: &Key, new: Option<Service>) -> Option<Service> {
        let before = self.services.get(key).map_or(0, Service::bytes);
        let now = new.as_ref().map_or(0, Service::bytes);
        let fits = self.memory.admits(Sort::Service, key, before, now);
        new.filter(|_| fits)
    }

    /// Takes an EndpointSlice in, or out with `None`. Gives the one before.
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

    /// Services and EndpointSlices for which there is no room.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &(Sort, Key)> {
        self.memory.refused.iter()
    }

    /// Namespace and name of those of a sort.
    pub(super) fn refused_names(&self, sort: Sort) -> impl Iterator<Item = &Key> {
        let all = self.refused().filter(move |(other, _)| *other == sort);
        all.map(|(_, key)| key)
    }

    pub(super) fn refuses_services(&self) -> bool {
        self.refused_names(Sort::Service).next().is_some()
    }
}
