//! Items in use under small numbers, which are reused once they are free.

/// Items by their numbers.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

/// Items added and removed since the last numbering.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    /// Slots of the added items.
    pub(super) new: Vec<u32>,
    /// The ids that the removed items had in tables.
    pub(super) gone: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// Returns the slot that the next item will get.
    pub(super) fn vacant(&self) -> u32 {
        let end = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.free.last().copied().unwrap_or(end)
    }

    pub(super) fn insert(&mut self, thing: T) -> u32 {
        let slot = self.vacant();
        match self.free.pop() {
            Some(_) => self.slots[slot as usize] = Some(thing),
            None => self.slots.push(Some(thing)),
        }
        slot
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        let thing = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(thing)
    }

    /// Iterates over all items.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = (0..).zip(&self.slots);
        slots.filter_map(|(slot, thing)| Some((slot, thing.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_given_anew_once_it_is_free() {
        let mut slots = Slots::default();
        assert_eq!((slots.insert('a'), slots.insert('b')), (0, 1));
        assert_eq!((slots.remove(0), slots.remove(0)), (Some('a'), None));
        assert_eq!(
            (slots.vacant(), slots.insert('c'), slots.vacant()),
            (0, 0, 2)
        );
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(0, &'c'), (1, &'b')]);
        assert_eq!(slots.get(2), None);
        assert_eq!(slots.get_mut(1), Some(&mut 'b'));
    }
}
