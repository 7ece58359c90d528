//! The addresses of the node being compiled for, as its own kernel reports them: more than its Node
//! object lists.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ringfence_ebpf::abi::Addr;

use super::Index;

/// The addresses, sorted.
pub(super) type Addresses = BTreeSet<Addr>;

impl Index {
    /// Sets the addresses of a node's interfaces; the node must always be the same. Returns whether
    /// they changed. As with a Node's addresses, a pod that shows one of them keeps it.
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
