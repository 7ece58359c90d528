//! The UDP ports of tunnels that nodes decapsulate.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_ebpf::abi::{TunnelPorts, capacity};

use super::Datapath;
use super::error::DatapathError;

impl Datapath {
    /// Sets which UDP ports belong to tunnels, in addition to those built into the programs. This
    /// takes effect at once for every packet, without a flip.
    ///
    /// # Errors
    /// Fails if the map can't be read or written. Each port is then in its old or its new state,
    /// and the next call goes through all of them.
    pub fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), DatapathError> {
        if self.tunnels.as_ref() == Some(ports) {
            return Ok(());
        }
        self.tunnels = None;
        let wanted = words(ports);
        for word in 0..capacity::TUNNELS {
            let wanted = wanted.get(&word).copied().unwrap_or_default();
            if self.maps.tunnels(word)? != wanted {
                self.maps.set_tunnels(word, wanted)?;
            }
        }
        self.tunnels = Some(ports.clone());
        Ok(())
    }

    /// Returns the ports in force, including those set by an earlier agent.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn tunnel_ports(&self) -> Result<BTreeSet<u16>, DatapathError> {
        let mut ports = BTreeSet::new();
        for word in 0..capacity::TUNNELS {
            let bits = self.maps.tunnels(word)?;
            if bits != 0 {
                let all = (0..=u16::MAX).filter(|port| TunnelPorts::word(*port) == word);
                ports.extend(all.filter(|port| bits & TunnelPorts::bit(*port) != 0));
            }
        }
        Ok(ports)
    }
}

/// Returns the elements that aren't 0.
fn words(ports: &BTreeSet<u16>) -> BTreeMap<u32, u64> {
    let mut words = BTreeMap::new();
    for port in ports {
        *words.entry(TunnelPorts::word(*port)).or_default() |= TunnelPorts::bit(*port);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_a_bit_of_its_own() {
        let ports = [0, 63, 64, 8473, u16::MAX].into();
        let expected = [(0, 1 | 1 << 63), (1, 1), (132, 1 << 25), (1023, 1 << 63)];
        assert_eq!(words(&ports), expected.into());
        let all = (0..=u16::MAX).collect();
        assert_eq!(
            words(&all),
            (0..1024).map(|word| (word, u64::MAX)).collect()
        );
    }
}
