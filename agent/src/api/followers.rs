//! How many may follow events over the network, all together and each client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All together: fewer than there may be connections, so that lists are always served.
const MOST: usize = 16;
/// Of one client.
const MOST_OF_ONE: usize = 4;

/// Who follows, by address.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<HashMap<IpAddr, usize>>);

/// A place among them, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    client: IpAddr,
    of: Arc<Followers>,
}

impl Followers {
    /// A place for one more; none if the client, or all together, have theirs.
    pub(super) fn join(self: &Arc<Self>, client: IpAddr) -> Option<Follower> {
        let mut held = self.held();
        let own = held.get(&client).copied().unwrap_or_default();
        if own >= MOST_OF_ONE || held.values().sum::<usize>() >= MOST {
            return None;
        }
        held.insert(client, own + 1);
        Some(Follower {
            client,
            of: Arc::clone(self),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut held = self.of.held();
        match held.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(held.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn one_client_takes_its_share_and_leaves_the_rest_to_others() {
        let all = Arc::new(Followers::default());
        let held: Vec<_> = (0..100).filter_map(|_| all.join(client(1))).collect();
        assert_eq!(held.len(), MOST_OF_ONE);
        assert!(all.join(client(2)).is_some());
        drop(held);
        assert!(all.join(client(1)).is_some());
        assert!(all.held().is_empty(), "nobody follows any more");
    }

    #[test]
    fn all_together_are_bounded() {
        let all = Arc::new(Followers::default());
        let mut held: Vec<_> = (0..100).filter_map(|n| all.join(client(n))).collect();
        assert_eq!(held.len(), MOST);
        assert!(all.join(client(1000)).is_none());
        held.pop();
        assert!(all.join(client(1000)).is_some());
    }
}
