//! The node's own network, passed on to the index and the datapath.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context as _;

use super::Engine;
use crate::node::Surroundings;
use crate::state::Shared;

/// The results of the last scans of the node.
#[derive(Default)]
pub(super) struct Node {
    /// None until a scan finds any.
    addresses: Option<BTreeSet<IpAddr>>,
    /// None before the first scan.
    tunnels: Option<BTreeSet<u16>>,
    /// Ports from the agent's settings.
    told: BTreeSet<u16>,
    /// Failures to list them.
    faults: Vec<String>,
}

impl Node {
    pub(super) fn new(told: BTreeSet<u16>) -> Self {
        Self {
            told,
            ..Self::default()
        }
    }

    /// Reports whether the node's addresses have been listed. Until then no policy is put in
    /// force: calls to a node's port would bypass the caller's egress policy.
    pub(super) const fn is_known(&self) -> bool {
        self.addresses.is_some()
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().flatten().copied().collect()
    }

    pub(super) fn tunnels(&self) -> Vec<u16> {
        self.tunnels.iter().flatten().copied().collect()
    }

    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Engine {
    /// Asks the pod runtime which sandboxes exist; returns whether they have changed. While it
    /// can't be asked, its last answer stays valid.
    pub(super) fn ask_runtime(&mut self) -> (bool, anyhow::Result<()>) {
        match self.finder.sandboxes() {
            None => (false, Ok(())),
            Some(Ok(sandboxes)) => (self.index.set_sandboxes(sandboxes), Ok(())),
            Some(Err(error)) => (false, Err(error)),
        }
    }

    /// Lists the node's addresses and tunnels; returns whether the addresses have changed. Tunnels
    /// are closed at once, even while policy isn't known yet.
    pub(super) fn look_at_node(&mut self, shared: &Shared) -> (bool, anyhow::Result<()>) {
        let Surroundings { addresses, tunnels } = (self.look_around)();
        let faults: Vec<String> = [&addresses.fault, &tunnels.fault]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for fault in faults
            .iter()
            .filter(|f| !self.surroundings.faults.contains(f))
        {
            tracing::warn!("the node's own network: {fault}");
        }
        self.surroundings.faults = faults;
        let mut changed = false;
        let nothing = addresses.found.is_empty() && addresses.fault.is_some();
        if self.surroundings.is_known() || !nothing {
            let last = self.surroundings.addresses.take().unwrap_or_default();
            let now = addresses.after(&last);
            changed = self
                .index
                .set_own_addresses(&self.node, now.iter().copied());
            self.surroundings.addresses = Some(now);
        }
        let mut kernel = shared.dataplane();
        let close = || -> anyhow::Result<()> {
            let last = match self.surroundings.tunnels.take() {
                Some(last) => last,
                None => kernel.tunnel_ports()?,
            };
            let mut now = tunnels.after(&last);
            now.extend(&self.surroundings.told);
            kernel.set_tunnel_ports(&now)?;
            self.surroundings.tunnels = Some(now);
            Ok(())
        };
        (changed, close().context("ports of tunnels"))
    }
}
