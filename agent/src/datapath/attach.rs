//! Decides which programs belong on which device, and keeps them attached there.

use std::collections::BTreeSet;

use nix::net::if_::if_nametoindex;
use ringfence_policy::tables::Tables;

use super::Hook;
use super::devices::Devices;
use super::{Applied, Datapath, Interface, Stranger};

impl Datapath {
    /// Attaches the programs first on every device, or verifies that they are.
    pub(super) fn reattach(&mut self, interfaces: &[Interface], devices: &Devices) -> Applied {
        let mut applied = Applied {
            generation: self.buffers.generation,
            ..Applied::default()
        };
        for interface in interfaces {
            // Attach even if no slot was free: without a slot the programs drop everything.
            let (ifindex, name) = (interface.ifindex, &interface.name);
            // A device that vanished or was renamed during this pass triggers the next pass.
            if let Err(error) = self.links.attach(ifindex, name, &Hook::POD)
                && if_nametoindex(name.as_str()) == Ok(ifindex)
            {
                let pod = interface.pod.clone();
                applied.failed.push((pod, error.to_string()));
            }
        }
        self.hook_others(interfaces, devices, &mut applied);
        applied
    }

    /// Does the same for devices that don't belong to a pod. A device that belonged to one stays
    /// closed under the pod's programs.
    fn hook_others(&mut self, managed: &[Interface], devices: &Devices, applied: &mut Applied) {
        let managed = managed.iter().map(|interface| interface.ifindex);
        let slots = self.endpoints.interfaces().into_iter();
        let mut pods: BTreeSet<u32> = managed.chain(slots).collect();
        let others = std::mem::take(&mut self.others);
        let strange = others.strangers.iter();
        let strange = strange.filter(|one| !pods.contains(&one.ifindex));
        let (closed, exempt): (Vec<&Stranger>, Vec<_>) = strange.partition(|one| one.closed);
        for one in closed {
            if let Err(error) = self.links.attach(one.ifindex, &one.name, &Hook::POD)
                && if_nametoindex(one.name.as_str()) == Ok(one.ifindex)
            {
                let name = one.name.clone();
                applied.unhooked.push((name, error.to_string()));
            }
        }
        let exempt: BTreeSet<u32> = exempt.iter().map(|one| one.ifindex).collect();
        pods.extend(self.links.of_pods().filter(|n| !exempt.contains(n)));
        let judged = |n: &u32| others.judged.as_ref().is_none_or(|all| all.contains(n));
        let plain = devices
            .iter()
            .filter(|(n, _)| !pods.contains(n) && judged(n));
        for (&ifindex, device) in plain {
            if device.hooks().is_empty() {
                continue;
            }
            let name = device.name.as_str();
            match self.links.attach(ifindex, name, device.hooks()) {
                Ok(()) => applied.devices += 1,
                // The device vanished or was renamed during this pass: the next pass handles its
                // replacement.
                Err(_) if if_nametoindex(name) != Ok(ifindex) => {}
                Err(error) => applied.unhooked.push((name.to_owned(), error.to_string())),
            }
        }
        self.others = others;
    }
}

/// Returns the interfaces of pods that have policy on this node.
pub(super) fn managed(tables: &Tables, interfaces: &[Interface]) -> Vec<Interface> {
    interfaces
        .iter()
        .filter(|interface| tables.endpoints.contains_key(&interface.pod))
        .cloned()
        .collect()
}
