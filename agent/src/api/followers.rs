//! Limits on how many clients may follow events over the network, in total and per client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Total limit: less than the limit of connections, so that lists can always be served.
const MOST: usize = 16;
/// Limit per client.
const MOST_OF_ONE: usize = 4;

/// Number of followers by client address.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<HashMap<IpAddr, usize>>);

/// One follower's place, released on drop.
#[derive(Debug)]
pub(super) struct Follower {
    client: IpAddr,
    of: Arc<Followers>,
}

impl Followers {
    /// Takes a place for one more follower; none if the client or all clients together have reached
    /// their limit.
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
