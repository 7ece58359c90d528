//! The addresses of the node that is compiled for, as its own kernel says: more than
//! its Node object shows.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ringfence_ebpf::abi::Addr;

use super::Index;

/// The addresses, in order.
pub(super) type Addresses = BTreeSet<Addr>;

impl Index {
    /// Says which addresses the interfaces of a node have, always the same one's;
    /// whether that is news. A pod that shows one of them keeps it, as with a
    /// Node's addresses.
    pub fn set_own_addresses(
        &mut self,
        node: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> bool {
        let now: Addresses = addresses.into_iter().map(Addr::from).collect();
        if now == self.own {
            return false;
        }
        let before = std::mem::take(&mut self.own);
        let name = self.pools.texts.get(node);
        for addr in before.difference(&now) {
            self.unclaim(addr, Some(Arc::clone(&name)), false);
        }
        for addr in now.difference(&before) {
            self.claim(*addr, Some(Arc::clone(&name)), false);
        }
        self.own = now;
        true
    }
}
