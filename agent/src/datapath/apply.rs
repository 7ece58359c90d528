//! Putting a new generation in force: standby, flip, wait, level.

use std::collections::BTreeMap;
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use ringfence_ebpf::abi::{Control, World};
use ringfence_policy::diff::Change;
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::attach::managed;
use super::devices::{self, Devices};
use super::dump::Dump;
use super::endpoints::{self, Wanted};
use super::error::DatapathError;
use super::{Applied, Datapath, Followed, Interface};

impl Datapath {
    /// Puts tables and interfaces in force, whatever was in force before: reads
    /// the maps to find what they lack. [`Datapath::apply_change`] needn't.
    ///
    /// # Errors
    /// As [`Datapath::apply_change`].
    pub fn apply(
        &mut self,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        self.apply_all(tables, None, interfaces)
    }

    /// Puts tables and interfaces in force, of which only `change` differs from
    /// the tables of the last call. If it doesn't follow on those, this is
    /// [`Datapath::apply`].
    ///
    /// Packets read the active world until one word is flipped, so no decision
    /// sees half a change. Blocks for one grace period (about 8 ms) if it flips.
    ///
    /// # Errors
    /// What was in force stays in force; the standby keeps what was written and
    /// the next call goes on from there. An interface to which the programs
    /// can't be attached is no error of the whole: see [`Applied::failed`] and
    /// [`Applied::unhooked`].
    pub fn apply_change(
        &mut self,
        tables: &Tables,
        change: &Change,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        self.apply_all(tables, Some(change), interfaces)
    }

    /// As [`Datapath::apply_change`] with the interfaces of the last call, none of
    /// which is looked at: for changes that leave every pod where it is.
    ///
    /// # Errors
    /// As [`Datapath::apply_change`].
    pub fn follow(&mut self, tables: &Tables, change: &Change) -> Result<Followed, DatapathError> {
        let interfaces = std::mem::take(&mut self.interfaces);
        let followed = self.put_in_force(tables, Some(change), &interfaces);
        self.interfaces = interfaces;
        followed
    }

    fn apply_all(
        &mut self,
        tables: &Tables,
        change: Option<&Change>,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        let devices = self.sweep()?;
        let names = devices.iter().map(|(n, device)| (*n, device.name.clone()));
        let names: BTreeMap<u32, String> = names.collect();
        self.interfaces = self.endpoints.with_retained(tables, interfaces, &names);
        let interfaces = std::mem::take(&mut self.interfaces);
        let followed = self.put_in_force(tables, change, &interfaces);
        self.interfaces = interfaces;
        let followed = followed?;
        let attached = self.reattach(&managed(tables, &self.interfaces), &devices);
        let mut failed = followed.refused;
        failed.extend(attached.failed);
        self.settle_quotas()?;
        Ok(Applied {
            flipped: followed.flipped,
            in_force_at: Some(followed.at),
            failed,
            ..attached
        })
    }

    fn put_in_force(
        &mut self,
        tables: &Tables,
        change: Option<&Change>,
        interfaces: &[Interface],
    ) -> Result<Followed, DatapathError> {
        let raised = self.take_note(tables, change)?;
        // After an error halfway nobody knows against what flows were decided, and
        // a new process can't tell what the pinned world meant to each endpoint:
        // then every flow is decided once more.
        let trusted = std::mem::take(&mut self.trusted);
        let raised = raised.filter(|_| trusted);
        let raises = |pod: &PodKey| raised.is_none_or(|change| change.raised.contains(pod));
        let wanted =
            endpoints::wanted(&mut self.maps, &mut self.names, tables, interfaces, &raises)?;
        let keeps_endpoints = raised.is_some()
            && wanted.iter().all(|one| !one.raised)
            && self.endpoints.are_settled(&wanted);
        let mut followed = Followed::default();
        if keeps_endpoints && self.worlds.are_level() {
            // Nothing differs.
        } else if keeps_endpoints && raised.is_some_and(|change| change.additive) {
            // Only new addresses of old classes: both worlds take them as they are.
            self.add_addresses(tables, &mut followed)?;
        } else {
            self.replace(tables, &wanted, &mut followed)?;
        }
        self.trusted = true;
        followed.generation = self.worlds.generation;
        Ok(followed)
    }

    /// Takes note of what the worlds lack. Gives the change if it follows on the
    /// tables of the last call.
    fn take_note<'c>(
        &mut self,
        tables: &Tables,
        change: Option<&'c Change>,
    ) -> Result<Option<&'c Change>, DatapathError> {
        let follows = change.filter(|change| self.seen == Some(change.since));
        match follows {
            Some(change) => self.worlds.note(&change.keys),
            None => {
                self.seen = None;
                let dump = Dump::read(&self.maps)?;
                let names = &self.names;
                self.worlds.compare(&dump, tables, |name| names.known(name));
            }
        }
        self.seen = change.map(|change| change.until);
        Ok(follows)
    }

    fn add_addresses(
        &mut self,
        tables: &Tables,
        followed: &mut Followed,
    ) -> Result<(), DatapathError> {
        let active = self.worlds.active;
        let (maps, names) = (&mut self.maps, &mut self.names);
        self.worlds.write(maps, names, active, tables)?;
        // What CPUs remember of these addresses is over.
        self.flip(active)?;
        followed.at = Instant::now();
        let (maps, names) = (&mut self.maps, &mut self.names);
        self.worlds.write(maps, names, active ^ 1, tables)
    }

    fn replace(
        &mut self,
        tables: &Tables,
        wanted: &[Wanted<'_>],
        followed: &mut Followed,
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
        let refused = refused.into_iter();
        followed
            .refused
            .extend(refused.map(|(pod, error)| (pod, error.to_string())));
        self.flip(standby)?;
        // In force from here on; whatever fails now is levelled by the next call.
        (followed.flipped, followed.at) = (true, Instant::now());
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
        self.maps.set_control(Control {
            state: Control::state(generation, world),
            flags: if self.options.audit {
                Control::AUDIT
            } else {
                0
            },
            events_per_second: self.options.events_per_second,
            ticks_per_second: self.ticks.per_second(),
            pad: 0,
        })?;
        self.worlds.generation = generation;
        self.worlds.active = world;
        Ok(())
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

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the pick-up window.
pub(super) fn monotonic() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| DatapathError::Program {
        operation: "reading CLOCK_MONOTONIC".to_owned(),
        message: errno.to_string(),
    })?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
