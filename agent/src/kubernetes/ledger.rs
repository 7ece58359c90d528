//! Records what has been delivered of one kind, to distinguish news from repetition.
//!
//! Pure. A list that is read again removes nothing before it is complete, and then only objects
//! that it doesn't contain. An object that the list shows as already known is no news.

use std::collections::HashMap;

/// Objects of a kind as shown by a list, to check whether all of them have been delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The list's own resource version, if it is a number.
    pub version: Option<u64>,
    /// Each object's namespace, name and resource version.
    pub objects: Vec<(String, String, Option<u64>)>,
    /// Whether the list contains all objects, not only the first ones.
    pub whole: bool,
}

impl Shown {
    /// Returns a complete list without objects.
    pub fn none() -> Self {
        Self {
            whole: true,
            ..Self::default()
        }
    }
}

/// The names of one kind's objects, with the resource version of each.
#[derive(Debug, Default)]
pub struct Ledger {
    known: HashMap<Box<str>, Mark>,
    /// Number of the current list.
    round: u32,
    /// The highest version of an event of this watch.
    newest: u64,
}

#[derive(Debug)]
struct Mark {
    version: Option<u64>,
    round: u32,
}

/// The classification of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// New information.
    Fresh,
    /// Already known.
    Known,
    /// Older than an event before it: the watch can't be trusted, and the kind must be listed
    /// again.
    Disorder,
}

impl Ledger {
    /// Starts a list.
    pub fn list(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.newest = 0;
    }

    /// Records an object of the list and reports whether it is news. An object older than the known
    /// version isn't: servers may answer with states of different moments.
    pub fn listed(&mut self, namespace: &str, name: &str, version: Option<u64>) -> bool {
        let round = self.round;
        match self.known.get_mut(&*key(namespace, name)) {
            Some(mark) => {
                mark.round = round;
                let stale = matches!((version, mark.version), (Some(new), Some(old)) if new <= old);
                if !stale {
                    mark.version = version;
                }
                !stale
            }
            None => {
                let mark = Mark { version, round };
                self.known.insert(key(namespace, name), mark);
                true
            }
        }
    }

    /// Completes the list: objects that it doesn't contain are gone. Returns their namespaces and
    /// names.
    pub fn complete(&mut self) -> Vec<(String, String)> {
        let round = self.round;
        let gone = self.known.extract_if(|_, mark| mark.round != round);
        let split = |(key, _): (Box<str>, Mark)| {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            (namespace.to_owned(), name.to_owned())
        };
        let gone = gone.map(split).collect();
        // The list may have found far fewer objects than before.
        if self.known.len() < self.known.capacity() / 4 {
            self.known.shrink_to_fit();
        }
        gone
    }

    /// Records that an object was added or changed.
    pub fn applied(&mut self, namespace: &str, name: &str, version: Option<u64>) -> News {
        match self.order(version) {
            News::Fresh => {}
            other => return other,
        }
        let (round, key) = (self.round, key(namespace, name));
        if self.is_older(&key, version) {
            return News::Known;
        }
        self.known.insert(key, Mark { version, round });
        News::Fresh
    }

    /// Records that an object was deleted.
    pub fn deleted(&mut self, namespace: &str, name: &str, version: Option<u64>) -> News {
        match self.order(version) {
            News::Fresh => {}
            other => return other,
        }
        let key = key(namespace, name);
        if self.is_older(&key, version) || self.known.remove(&key).is_none() {
            return News::Known;
        }
        News::Fresh
    }

    /// Reports whether everything in a list has been delivered: an event from after the list has
    /// come, or the known objects match the list.
    pub fn has(&self, shown: &Shown) -> bool {
        if shown.version.is_some_and(|version| self.newest >= version) {
            return true;
        }
        let is_known = |(namespace, name, version): &(String, String, Option<u64>)| {
            let mark = self.known.get(&*key(namespace, name));
            mark.is_some_and(|mark| mark.version >= *version)
        };
        shown.whole && shown.objects.len() == self.known.len() && shown.objects.iter().all(is_known)
    }

    /// Reports whether an object has been delivered in this version or a later one, or its deletion
    /// after it.
    pub fn has_object(&self, namespace: &str, name: &str, version: u64) -> bool {
        let known = self.known.get(&*key(namespace, name));
        let told = known.and_then(|mark| mark.version);
        told.unwrap_or(self.newest) >= version
    }

    /// Reports whether an object is known in the version of an event or a later one: a watch that
    /// follows a list of an earlier moment repeats the events in between.
    fn is_older(&self, key: &str, version: Option<u64>) -> bool {
        let known = self.known.get(key).and_then(|mark| mark.version);
        matches!((version, known), (Some(new), Some(old)) if new <= old)
    }

    /// Checks the order of events. Versions increase within a watch, except that a resumed one may
    /// start with its last event, and a faulty one may do anything.
    fn order(&mut self, version: Option<u64>) -> News {
        let Some(version) = version else {
            return News::Fresh;
        };
        if version < self.newest {
            return News::Disorder;
        }
        if version == self.newest {
            return News::Known;
        }
        self.newest = version;
        News::Fresh
    }

    /// Returns the number of known objects.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Reports whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

fn key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(ledger: &mut Ledger, objects: &[(&str, u64)]) -> Vec<bool> {
        ledger.list();
        let each = objects.iter();
        each.map(|(name, version)| ledger.listed("ns", name, Some(*version)))
            .collect()
    }

    #[test]
    fn a_new_list_tells_only_what_differs_and_removes_only_once_complete() {
        let mut ledger = Ledger::default();
        assert_eq!(listed(&mut ledger, &[("a", 1), ("b", 2)]), [true, true]);
        assert_eq!(ledger.complete(), []);
        assert_eq!(listed(&mut ledger, &[("a", 1)]), [false]);
        // The list broke off; the next one is complete.
        assert_eq!(listed(&mut ledger, &[("b", 3), ("c", 4)]), [true, true]);
        assert_eq!(ledger.complete(), [("ns".to_owned(), "a".to_owned())]);
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn a_list_of_an_earlier_moment_takes_nothing_back() {
        let mut ledger = Ledger::default();
        listed(&mut ledger, &[("a", 5)]);
        assert_eq!(listed(&mut ledger, &[("a", 4)]), [false]);
        assert_eq!(ledger.complete(), []);
        assert_eq!(ledger.applied("ns", "a", Some(5)), News::Known);
        assert_eq!(ledger.applied("ns", "a", Some(6)), News::Fresh);
    }

    #[test]
    fn an_event_told_twice_is_known_and_one_out_of_order_is_disorder() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.applied("ns", "a", Some(7)), News::Fresh);
        assert_eq!(ledger.applied("ns", "a", Some(7)), News::Known);
        assert_eq!(ledger.applied("ns", "b", Some(6)), News::Disorder);
        assert_eq!(ledger.deleted("ns", "a", Some(8)), News::Fresh);
        assert_eq!(ledger.deleted("ns", "a", Some(8)), News::Known);
        // A new list starts a new order.
        ledger.list();
        assert_eq!(ledger.applied("ns", "c", Some(3)), News::Fresh);
    }

    fn shown(version: u64, objects: &[(&str, u64)], whole: bool) -> Shown {
        let each = objects.iter();
        let each = each.map(|(name, version)| ("ns".into(), (*name).to_owned(), Some(*version)));
        Shown {
            version: Some(version),
            objects: each.collect(),
            whole,
        }
    }

    #[test]
    fn what_a_list_shows_has_been_told_by_later_events_or_one_by_one() {
        let mut ledger = Ledger::default();
        listed(&mut ledger, &[("a", 1), ("b", 2)]);
        ledger.complete();
        // Other kinds have used the versions in between.
        assert!(ledger.has(&shown(9, &[("a", 1), ("b", 2)], true)));
        assert!(
            !ledger.has(&shown(9, &[("a", 1), ("b", 8)], true)),
            "changed"
        );
        assert!(!ledger.has(&shown(9, &[("a", 1)], true)), "deleted");
        assert!(
            !ledger.has(&shown(9, &[("a", 1), ("b", 2), ("c", 7)], true)),
            "new"
        );
        assert!(
            !ledger.has(&shown(9, &[("a", 1), ("b", 2)], false)),
            "more may follow"
        );
        ledger.applied("ns", "c", Some(7));
        assert!(ledger.has(&shown(9, &[("a", 1), ("b", 2), ("c", 7)], true)));
        ledger.deleted("ns", "a", Some(9));
        assert!(
            ledger.has(&shown(9, &[("b", 2), ("c", 7)], false)),
            "from after the list"
        );
        assert!(!ledger.has(&shown(10, &[("a", 10), ("b", 2), ("c", 7)], true)));
    }

    #[test]
    fn an_object_has_been_told_by_its_version_or_by_its_end() {
        let mut ledger = Ledger::default();
        listed(&mut ledger, &[("a", 3)]);
        assert!(ledger.has_object("ns", "a", 3));
        assert!(!ledger.has_object("ns", "a", 4));
        assert!(!ledger.has_object("ns", "b", 4));
        ledger.deleted("ns", "a", Some(5));
        assert!(ledger.has_object("ns", "a", 4));
        assert!(!ledger.has_object("ns", "b", 6));
    }

    #[test]
    fn versions_that_arent_numbers_are_all_believed() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.applied("ns", "a", None), News::Fresh);
        assert_eq!(ledger.applied("ns", "a", None), News::Fresh);
    }
}
