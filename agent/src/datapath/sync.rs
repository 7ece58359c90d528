//! Bringing a map to what it should hold, element by element, and knowing at
//! every moment what it does hold.

use std::collections::BTreeMap;

use super::error::DatapathError;
use super::maps::{Table, map_error};

/// Brings `map` from `held` to `wanted`. `held` follows every single write, so
/// an error halfway leaves it true and the next try goes on from there.
///
/// Removals come first: they make room.
pub(super) fn level<K, V, M>(
    name: &'static str,
    map: &mut M,
    held: &mut BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> Result<(), DatapathError>
where
    K: Ord + Copy,
    V: PartialEq + Copy,
    M: Table<K, V>,
{
    let surplus: Vec<K> = held
        .keys()
        .filter(|key| !wanted.contains_key(key))
        .copied()
        .collect();
    for key in surplus {
        map.take(&key)
            .map_err(|error| map_error("removing from", name, &error))?;
        held.remove(&key);
    }
    for (key, value) in wanted {
        if held.get(key) != Some(value) {
            map.put(key, value)
                .map_err(|error| map_error("writing", name, &error))?;
            held.insert(*key, *value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::maps::MapError;

    /// A map that refuses its n-th write.
    struct Faulty {
        entries: BTreeMap<u32, u32>,
        writes_left: usize,
    }

    impl Faulty {
        fn spend(&mut self) -> Result<(), MapError> {
            if self.writes_left == 0 {
                return Err(MapError::KeyNotFound);
            }
            self.writes_left -= 1;
            Ok(())
        }
    }

    impl Table<u32, u32> for Faulty {
        fn put(&mut self, key: &u32, value: &u32) -> Result<(), MapError> {
            self.spend()?;
            self.entries.insert(*key, *value);
            Ok(())
        }

        fn take(&mut self, key: &u32) -> Result<(), MapError> {
            self.spend()?;
            self.entries.remove(key);
            Ok(())
        }
    }

    #[test]
    fn a_failed_write_at_any_point_leaves_the_mirror_true_and_the_next_try_finishes() {
        let before: BTreeMap<u32, u32> = [(1, 1), (2, 2), (3, 3)].into();
        let wanted: BTreeMap<u32, u32> = [(2, 2), (3, 4), (5, 5), (6, 6)].into();
        for writes_left in 0..4 {
            let mut held = before.clone();
            let mut map = Faulty {
                entries: before.clone(),
                writes_left,
            };
            level("TEST", &mut map, &mut held, &wanted).expect_err("the fault shows");
            assert_eq!(held, map.entries);
            map.writes_left = usize::MAX;
            level("TEST", &mut map, &mut held, &wanted).expect("the second try works");
            assert_eq!((&held, &map.entries), (&wanted, &wanted));
        }
    }
}
