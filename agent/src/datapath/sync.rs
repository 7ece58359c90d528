//! Brings a map up to date element by element, keeping track of what is still missing at every
//! moment.

use std::collections::BTreeSet;

use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::{Table, map_error};

/// Writes the entries that are out of date in `map`: `key` is an entry's key in the map, `wanted`
/// its desired value, if any. `lacking` is updated after every single write, so it stays correct
/// after an error halfway and the next attempt continues from there.
///
/// Removals come first to make room.
pub(super) fn bring<L, K, V>(
    name: MapName,
    map: &mut dyn Table<K, V>,
    lacking: &mut BTreeSet<L>,
    key: impl Fn(&L) -> K,
    wanted: impl Fn(&L) -> Option<V>,
) -> Result<(), DatapathError>
where
    L: Ord + Copy,
{
    let unwanted = lacking.iter().filter(|one| wanted(one).is_none());
    for one in unwanted.copied().collect::<Vec<L>>() {
        map.take(&key(&one))
            .map_err(|error| map_error("removing from", name, &error))?;
        lacking.remove(&one);
    }
    while let Some(one) = lacking.first().copied() {
        if let Some(value) = wanted(&one) {
            map.put(&key(&one), &value)
                .map_err(|error| map_error("writing", name, &error))?;
        }
        lacking.pop_first();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::testing::Faulty;
    use super::*;

    #[test]
    fn a_failed_write_at_any_point_leaves_the_rest_lacking_and_the_next_try_finishes() {
        let before = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
        let wanted: BTreeMap<u32, u32> = [(2, 2), (3, 4), (5, 5), (6, 6)].into();
        let value = |key: &u32| wanted.get(key).copied();
        for writes_left in 0..4 {
            let mut lacking: BTreeSet<u32> = [1, 3, 5, 6].into();
            let mut map = Faulty::new(before.clone(), writes_left);
            bring(MapName::Rules, &mut map, &mut lacking, |key| *key, value)
                .expect_err("the fault shows");
            assert_eq!(lacking.len(), 4 - writes_left);
            assert!(
                lacking
                    .iter()
                    .all(|key| map.entries.get(key) != wanted.get(key))
            );
            map.heal();
            bring(MapName::Rules, &mut map, &mut lacking, |key| *key, value)
                .expect("the second try works");
            assert_eq!(map.entries, wanted);
            assert!(lacking.is_empty());
        }
    }
}
