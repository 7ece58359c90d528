//! Putting a new generation in force: standby, flip, wait, level.

use std::collections::{BTreeMap, BTreeSet};

use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use ringfence_ebpf::abi::{Control, Identity, World};
use ringfence_policy::diff::Change;
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::devices::{self, Devices};
use super::endpoints::{self, Wanted};
use super::error::DatapathError;
use super::hook::Hook;
use super::maps::AgentField;
use super::{Applied, Datapath, Interface};

impl Datapath {
    /// Puts tables and interfaces in force.
    ///
    /// Packets read the active world until one word is flipped, so no decision
    /// sees half a change. Blocks for one grace period (about 8 ms) if it flips.
    ///
    /// # Errors
    /// What was in force stays in force; the standby keeps what was written and
    /// the next call goes on from there. An interface to which the programs
    /// can't be attached is no error of the whole: see [`Applied::failed`] and
    /// [`Applied::unhooked`].
    pub fn apply(
        &mut self,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        let applied = self.put_in_force(tables, interfaces)?;
        self.settle_quotas()?;
        Ok(applied)
    }

    fn put_in_force(
        &mut self,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        let devices = self.sweep()?;
        let names = devices.iter().map(|(n, device)| (*n, device.name.clone()));
        let names: BTreeMap<u32, String> = names.collect();
        let interfaces = self.endpoints.with_retained(tables, interfaces, &names);
        if self.in_force.as_ref() == Some(tables) && self.same_interfaces(tables, &interfaces) {
            return Ok(self.reattach(&managed(tables, &interfaces), &devices));
        }
        // After an error halfway nobody knows against what flows were decided:
        // then the next call raises every epoch.
        let old = self.in_force.take();
        let change = old.as_ref().map(|old| Change::between(old, tables));
        // A new process can't tell what the pinned world meant to each
        // endpoint: every flow is decided once more.
        let moved = old.as_ref().is_some_and(|old| changed_kind(old, tables));
        let raised = |pod: &PodKey| moved || change.as_ref().is_none_or(|c| c.raised.contains(pod));
        let wanted = endpoints::wanted(
            &mut self.maps,
            &mut self.names,
            tables,
            &interfaces,
            &raised,
        )?;
        let additive = change
            .as_ref()
            .is_some_and(|c| c.additive && c.raised.is_empty() && !moved);
        let mut failed = Vec::new();
        let flipped = if additive && self.same_endpoints(&wanted) {
            // Only new addresses of old classes: both worlds take them as they are.
            let active = self.worlds.active;
            for world in [active, active ^ 1] {
                self.worlds
                    .write(&mut self.maps, &mut self.names, world, tables)?;
            }
            // What CPUs remember of these addresses is over.
            self.flip(active)?;
            false
        } else {
            self.replace(tables, &wanted, &mut failed)?;
            true
        };
        self.in_force = Some(tables.clone());
        let attached = self.reattach(&managed(tables, &interfaces), &devices);
        failed.extend(attached.failed);
        Ok(Applied {
            flipped,
            failed,
            ..attached
        })
    }

    /// Sees to it that the programs stand first on every device.
    fn reattach(&mut self, interfaces: &[Interface], devices: &Devices) -> Applied {
        let mut applied = Applied {
            generation: self.worlds.generation,
            ..Applied::default()
        };
        for interface in interfaces {
            // Also where no slot was free: without a slot the programs are closed.
            let (ifindex, name) = (interface.ifindex, &interface.name);
            if let Err(error) = self.links.attach(ifindex, name, &Hook::POD) {
                applied
                    .failed
                    .push((interface.pod.clone(), error.to_string()));
            }
        }
        self.hook_others(interfaces, devices, &mut applied);
        applied
    }

    /// The same for devices that no pod is behind. One that was a pod's stays
    /// closed under the pod's programs.
    fn hook_others(&mut self, managed: &[Interface], devices: &Devices, applied: &mut Applied) {
        let managed = managed.iter().map(|interface| interface.ifindex);
        let slots = self.endpoints.interfaces().into_iter();
        let pods: BTreeSet<u32> = managed.chain(slots).chain(self.links.of_pods()).collect();
        for (&ifindex, device) in devices.iter().filter(|(n, _)| !pods.contains(n)) {
            if device.hooks().is_empty() {
                continue;
            }
            let name = device.name.as_str();
            match self.links.attach(ifindex, name, device.hooks()) {
                Ok(()) => applied.devices += 1,
                // It went, or got another name, while this pass ran: what is
                // there now is the next one's.
                Err(_) if if_nametoindex(name) != Ok(ifindex) => {}
                Err(error) => applied.unhooked.push((name.to_owned(), error.to_string())),
            }
        }
    }

    /// Whether every pod with an interface sits in its slot already.
    fn same_interfaces(&self, tables: &Tables, interfaces: &[Interface]) -> bool {
        let managed = interfaces
            .iter()
            .filter(|interface| tables.endpoints.contains_key(&interface.pod));
        let mut seen = BTreeSet::new();
        for interface in managed {
            if !self.endpoints.sits(interface) {
                return false;
            }
            seen.insert(interface.ifindex);
        }
        self.endpoints.known().is_subset(&seen)
    }

    fn replace(
        &mut self,
        tables: &Tables,
        wanted: &[Wanted<'_>],
        failed: &mut Vec<(PodKey, String)>,
    ) -> Result<(), DatapathError> {
        // Zero once the window is over: it is for connections older than this agent.
        let pickup_until = if monotonic()? < self.pickup_until {
            self.pickup_until
        } else {
            0
        };
        let standby = self.worlds.standby();
        self.worlds
            .write(&mut self.maps, &mut self.names, standby, tables)?;
        let refused = self
            .endpoints
            .write(&mut self.maps, standby, wanted, pickup_until)?;
        failed.extend(
            refused
                .iter()
                .map(|(pod, error)| (pod.clone(), error.to_string())),
        );
        self.flip(standby)?;
        // In force from here on; whatever fails now is levelled by the next call.
        self.maps.wait_for_readers()?;
        self.worlds
            .write(&mut self.maps, &mut self.names, standby ^ 1, tables)?;
        let settled: Vec<Wanted<'_>> = wanted
            .iter()
            .map(|one| Wanted {
                raised: false,
                ..one.clone()
            })
            .collect();
        self.endpoints
            .write(&mut self.maps, standby ^ 1, &settled, pickup_until)?;
        Ok(())
    }

    /// Puts a world in force, or what has come to the one that is.
    fn flip(&mut self, world: World) -> Result<(), DatapathError> {
        let generation = self.worlds.generation + 1;
        self.maps.set_agent(AgentField::Generation, generation)?;
        self.maps.set_control(Control {
            world,
            flags: if self.options.audit {
                Control::AUDIT
            } else {
                0
            },
            events_per_second: self.options.events_per_second,
            ticks_per_second: self.ticks.per_second(),
            generation: generation as u32,
        })?;
        self.worlds.generation = generation;
        self.worlds.active = world;
        Ok(())
    }

    /// Whether the endpoints in the map are just the wanted ones, with the
    /// policy that they have.
    fn same_endpoints(&self, wanted: &[Wanted<'_>]) -> bool {
        let interfaces: BTreeSet<u32> = wanted.iter().map(|one| one.interface.ifindex).collect();
        interfaces == self.endpoints.interfaces()
            && wanted.iter().all(|one| self.endpoints.is_settled(one))
    }

    /// Frees what belonged to interfaces that have vanished.
    fn sweep(&mut self) -> Result<Devices, DatapathError> {
        let present = devices::list()?;
        let known = self.endpoints.interfaces().into_iter();
        for ifindex in known.chain(self.links.interfaces()) {
            if !present.contains_key(&ifindex) {
                self.links.forget(ifindex)?;
                self.endpoints.free(&mut self.maps, ifindex)?;
            }
        }
        Ok(present)
    }
}

/// The interfaces of pods that are under policy here.
fn managed(tables: &Tables, interfaces: &[Interface]) -> Vec<Interface> {
    interfaces
        .iter()
        .filter(|interface| tables.endpoints.contains_key(&interface.pod))
        .cloned()
        .collect()
}

/// Whether some address no longer is, or only now is, a node's or a Service's.
///
/// Flows with this node are allowed whatever policy says, and so is what goes to
/// a Service before DNAT: such flows have to be looked at again. The other way
/// round, the packets of a flow with what has become a Service don't say that
/// they are to be decided after DNAT.
fn changed_kind(old: &Tables, new: &Tables) -> bool {
    const KINDS: u32 = Identity::IS_NODE | Identity::IS_THIS_NODE | Identity::IS_SERVICE;
    let kinds = |tables: &Tables| {
        let all = tables.identities.iter();
        let kinds = all.map(|(addr, (_, flags))| (*addr, flags & KINDS));
        let kinds = kinds.filter(|(_, kinds)| *kinds != 0);
        kinds.collect::<Vec<_>>()
    };
    kinds(old) != kinds(new)
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the pick-up window.
pub(super) fn monotonic() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| DatapathError::Program {
        operation: "reading CLOCK_MONOTONIC".to_owned(),
        message: errno.to_string(),
    })?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
