//! Assigns devices to pods if several pods appear on one device: pure.
//!
//! A pod that may configure its own interface can put any address on it, including another pod's.
//! But it can't remove its own address from another pod's device, so a pod that has its own device
//! left never loses it here.

use std::collections::{BTreeMap, BTreeSet};

/// Assigns at most one device to each contender and at most one contender to each device, to as
/// many contenders as possible. `wishes` lists each contender's devices, best first; the result
/// maps devices to contenders.
///
/// Maximizing the number is what keeps impostors out: a contender with only one possible device
/// gets it, and so does a group of pods with exactly as many devices as members, whatever
/// addresses they swap among themselves.
pub(super) fn assign(wishes: &[Vec<u32>]) -> BTreeMap<u32, usize> {
    let mut owners = BTreeMap::new();
    for contender in 0..wishes.len() {
        settle(contender, wishes, &mut owners, &mut BTreeSet::new());
    }
    owners
}

/// Finds a device for one more contender, moving others to different devices where possible.
fn settle(
    contender: usize,
    wishes: &[Vec<u32>],
    owners: &mut BTreeMap<u32, usize>,
    asked: &mut BTreeSet<u32>,
) -> bool {
    let devices = &wishes[contender];
    if let Some(free) = devices.iter().find(|device| !owners.contains_key(device)) {
        owners.insert(*free, contender);
        return true;
    }
    for device in devices {
        let Some(&owner) = owners.get(device) else {
            continue;
        };
        if asked.insert(*device) && settle(owner, wishes, owners, asked) {
            owners.insert(*device, contender);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(wishes: &[&[u32]]) -> Vec<(u32, usize)> {
        let wishes: Vec<_> = wishes.iter().map(|wish| wish.to_vec()).collect();
        assign(&wishes).into_iter().collect()
    }

    #[test]
    fn everybody_gets_the_best_that_nobody_else_needs() {
        assert_eq!(owners(&[&[8, 7], &[9]]), [(8, 0), (9, 1)]);
        assert_eq!(owners(&[&[9, 8], &[9]]), [(8, 0), (9, 1)]);
        assert_eq!(owners(&[&[9], &[9, 8]]), [(8, 1), (9, 0)]);
    }

    #[test]
    fn a_group_that_swaps_addresses_gets_no_device_of_an_outsider() {
        let expected = [(7, 0), (8, 2), (9, 1)];
        let found = owners(&[&[9, 7], &[9, 7], &[9, 8]]);
        assert_eq!(found.iter().find(|(_, who)| *who == 2), Some(&expected[1]));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn who_comes_last_to_the_only_device_goes_without() {
        assert_eq!(owners(&[&[7], &[7], &[]]), [(7, 0)]);
    }
}
