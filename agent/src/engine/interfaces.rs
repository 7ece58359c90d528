//! The devices of pods, kept from pass to pass.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use ringfence_policy::index::PodKey;

use super::Engine;
use crate::datapath::Interface;

impl Engine {
    /// Finds the pods' interfaces. If that fails they stay as they were: policy must not wait for
    /// them.
    pub(super) fn find_interfaces(&mut self) -> anyhow::Result<()> {
        let Some(compiled) = &self.compiled else {
            return Ok(());
        };
        let wanted: BTreeMap<&PodKey, &[IpAddr]> = compiled
            .wanted
            .iter()
            .map(|wanted| (&wanted.pod, &*wanted.addresses))
            .collect();
        let known = self.known(&wanted);
        let found = self.finder.find(&compiled.wanted, &known)?;
        for warning in &found.warnings {
            if !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        let addresses = |interface: &Interface| match wanted.get(&interface.pod) {
            Some(now) if !now.is_empty() => now.to_vec(),
            _ => self
                .found_by
                .get(&interface.pod)
                .cloned()
                .unwrap_or_default(),
        };
        self.found_by = found
            .interfaces
            .iter()
            .map(|interface| (interface.pod.clone(), addresses(interface)))
            .collect();
        self.interfaces = found.interfaces;
        self.settling
            .look(&found.unguarded, &compiled.wanted, Instant::now());
        self.unguarded = found.unguarded;
        self.skipped = found.skipped;
        self.warnings = found.warnings;
        self.others = found.others;
        Ok(())
    }

    /// Returns the interfaces that are still valid. A pod of which all addresses have changed is
    /// looked for again: its old device may be another pod's by now.
    fn known(&self, wanted: &BTreeMap<&PodKey, &[IpAddr]>) -> Vec<Interface> {
        let is_known = |interface: &&Interface| {
            let Some(now) = wanted.get(&interface.pod) else {
                return false;
            };
            let before = self.found_by.get(&interface.pod);
            now.is_empty()
                || before.is_none_or(|before| before.iter().any(|address| now.contains(address)))
        };
        self.interfaces.iter().filter(is_known).cloned().collect()
    }
}
