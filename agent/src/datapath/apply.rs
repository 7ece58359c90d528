//! Putting a new generation in force: standby, flip, wait, level.

use std::collections::{BTreeMap, BTreeSet};
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
    /// As [`Applied::error`] says, and as [`Datapath::apply_change`].
    pub fn apply(
        &mut self,
        tables: &Tables,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        match self.apply_all(tables, None, interfaces)? {
            (applied, None) => Ok(applied),
            (_, Some(error)) => Err(error),
        }
    }

    /// Puts tables and interfaces in force, of which only `change` differs from
    /// the tables of the last call. If it doesn't follow on those, this is
    /// [`Datapath::apply`].
    ///
    /// Packets read the active world until one word is flipped, so no decision
    /// sees half a change. Blocks for one grace period (about 8 ms) if it flips.
    ///
    /// Where the tables can't be written, what was in force stays in force, but for
    /// what can't wait: see [`Applied::error`]. The standby keeps what was written
    /// and the next call goes on from there. An interface to which the programs
    /// can't be attached is no error of the whole: see [`Applied::failed`] and
    /// [`Applied::unhooked`].
    ///
    /// # Errors
    /// If the node's devices can't be listed: nothing was touched.
    pub fn apply_change(
        &mut self,
        tables: &Tables,
        change: &Change,
        interfaces: &[Interface],
    ) -> Result<Applied, DatapathError> {
        let (applied, error) = self.apply_all(tables, Some(change), interfaces)?;
        Ok(Applied {
            error: error.map(|error| error.to_string()),
            ..applied
        })
    }

    /// As [`Datapath::apply_change`] with the interfaces of the last call, none of
    /// which is looked at: for changes that leave every pod where it is.
    ///
    /// # Errors
    /// As [`Applied::error`] says.
    pub fn follow(&mut self, tables: &Tables, change: &Change) -> Result<Followed, DatapathError> {
        let interfaces = std::mem::take(&mut self.interfaces);
        let followed = self.put_in_force(tables, Some(change), &interfaces);
        self.interfaces = interfaces;
        followed
    }

    /// Attaching waits for no table: a pod whose policy can't be written is closed
    /// by its own programs. Gives the first thing that failed.
    fn apply_all(
        &mut self,
        tables: &Tables,
        change: Option<&Change>,
        interfaces: &[Interface],
    ) -> Result<(Applied, Option<DatapathError>), DatapathError> {
        let devices = devices::list()?;
        let swept = self.sweep(&devices);
        let names = devices.iter().map(|(n, device)| (*n, device.name.clone()));
        let names: BTreeMap<u32, String> = names.collect();
        self.interfaces = self.endpoints.with_retained(tables, interfaces, &names);
        let interfaces = std::mem::take(&mut self.interfaces);
        let followed = self.put_in_force(tables, change, &interfaces);
        self.interfaces = interfaces;
        let moved = self.move_over(tables, followed.is_ok());
        let mut applied = self.reattach(&managed(tables, &self.interfaces), &devices);
        let moved = moved.and_then(|all| if all { self.finish_move() } else { Ok(()) });
        let asked = self.ask_for_mark();
        let settled = self.settle_quotas();
        let settled = match followed {
            Ok(_) => settled.and(self.settle_names(tables)),
            Err(_) => settled,
        };
        let failed = match followed {
            Ok(followed) => {
                applied.flipped = followed.flipped;
                applied.in_force_at = Some(followed.at);
                applied.failed.extend(followed.refused);
                None
            }
            Err(error) => {
                applied.closed = self.endpoints.closed(tables, self.worlds.active);
                Some(error)
            }
        };
        let failed = failed.or(swept.err()).or(moved.err()).or(asked.err());
        Ok((applied, failed.or(settled.err())))
    }

    /// Puts tables in force, and if that fails, what can't wait for them.
    fn put_in_force(
        &mut self,
        tables: &Tables,
        change: Option<&Change>,
        interfaces: &[Interface],
    ) -> Result<Followed, DatapathError> {
        let followed = self.put_all_in_force(tables, change, interfaces);
        if followed.is_err() {
            // Worse than a table that is full, so this error is the one to tell.
            self.endpoints.cut_off(&mut self.maps, tables, interfaces)?;
        }
        followed
    }

    fn put_all_in_force(
        &mut self,
        tables: &Tables,
        change: Option<&Change>,
        interfaces: &[Interface],
    ) -> Result<Followed, DatapathError> {
        let raised = self.take_note(tables, change);
        let pickup_until = self.pickup_until()?;
        // After an error halfway nobody knows against what flows were decided, and
        // a new process can't tell what the pinned world meant to each endpoint:
        // then every flow is decided once more.
        let trusted = std::mem::take(&mut self.trusted);
        let raises = |pod: &PodKey| match &raised {
            Ok(Some(change)) if trusted => change.raised.contains(pod),
            _ => true,
        };
        let wanted =
            endpoints::wanted(&mut self.maps, &mut self.names, tables, interfaces, &raises)?;
        self.endpoints.seat(&mut self.maps, &wanted, pickup_until)?;
        let hidden_alike = self.hides_services == tables.hides_services;
        self.hide_services(tables)?;
        let raised = raised?.filter(|_| trusted);
        let keeps_endpoints = hidden_alike
            && raised.is_some()
            && wanted.iter().all(|one| !one.raised)
            && self.endpoints.are_settled(&wanted);
        let mut followed = Followed::default();
        if keeps_endpoints && self.worlds.are_level() {
            // Nothing differs.
        } else if keeps_endpoints && raised.is_some_and(|change| change.additive) {
            // Only new addresses of old classes: both worlds take them as they are.
            self.add_addresses(tables, &mut followed)?;
        } else {
            self.replace(tables, &wanted, pickup_until, &mut followed)?;
        }
        self.trusted = true;
        followed.generation = self.worlds.generation;
        Ok(followed)
    }

    /// Until when endpoints pick up connections that are older than this agent: zero
    /// once the window is over.
    fn pickup_until(&self) -> Result<u64, DatapathError> {
        let open = monotonic()? < self.pickup_until;
        Ok(if open { self.pickup_until } else { 0 })
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
        self.flip(active, tables)?;
        followed.at = Instant::now();
        let (maps, names) = (&mut self.maps, &mut self.names);
        self.worlds.write(maps, names, active ^ 1, tables)
    }

    fn replace(
        &mut self,
        tables: &Tables,
        wanted: &[Wanted<'_>],
        pickup_until: u64,
        followed: &mut Followed,
    ) -> Result<(), DatapathError> {
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
        self.flip(standby, tables)?;
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
    fn flip(&mut self, world: World, tables: &Tables) -> Result<(), DatapathError> {
        self.hides_services = tables.hides_services;
        let generation = self.worlds.generation + 1;
        let control = self.control(generation, world);
        self.maps.set_control(control)?;
        self.worlds.generation = generation;
        self.worlds.active = world;
        Ok(())
    }

    /// Takes unknown addresses for Services' before the first of these goes, as the tables
    /// want it. That they no longer are is said by the flip, when all are back.
    fn hide_services(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        if self.hides_services || !tables.hides_services {
            return Ok(());
        }
        self.hides_services = true;
        let control = self.control(self.worlds.generation, self.worlds.active);
        let written = self.maps.set_control(control);
        // What wasn't written is to be tried again.
        self.hides_services = written.is_ok();
        written
    }

    /// What `CONTROL` says under a generation.
    pub(super) fn control(&self, generation: u64, world: World) -> Control {
        Control {
            state: Control::state(generation, world),
            flags: flag(self.options.audit, Control::AUDIT)
                | flag(self.hides_services, Control::HIDES_SERVICES),
            events_per_second: self.options.events_per_second,
            ticks_per_second: self.ticks.per_second(),
            seen_mark: if self.marked {
                self.options.seen_mark
            } else {
                0
            },
        }
    }

    /// Asks packets from now on for the mark of those that a hook saw come in: every
    /// hook sets it by now, and programs that didn't have ended. A device that couldn't
    /// be hooked is closed.
    fn ask_for_mark(&mut self) -> Result<(), DatapathError> {
        if self.marked || !self.predecessors.is_empty() {
            return Ok(());
        }
        self.maps.wait_for_readers()?;
        self.marked = true;
        let control = self.control(self.worlds.generation, self.worlds.active);
        let set = self.maps.set_control(control);
        let set = set.and_then(|()| self.maps.note_mark(self.options.seen_mark));
        set.inspect_err(|_| self.marked = false)
    }

    /// Frees what belonged to interfaces that have vanished. What can't be freed
    /// keeps nothing else from being.
    fn sweep(&mut self, present: &Devices) -> Result<(), DatapathError> {
        let known = self.endpoints.interfaces().into_iter();
        let known = known.chain(self.links.interfaces());
        let gone: BTreeSet<u32> = known.filter(|n| !present.contains_key(n)).collect();
        let mut swept = Ok(());
        for ifindex in gone {
            let freed = self.links.forget(ifindex);
            let freed = freed.and_then(|()| self.endpoints.free(&mut self.maps, ifindex));
            swept = swept.and(freed);
        }
        swept
    }
}

const fn flag(set: bool, flag: u32) -> u32 {
    if set { flag } else { 0 }
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the pick-up window.
pub(super) fn monotonic() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| DatapathError::Program {
        operation: "reading CLOCK_MONOTONIC".to_owned(),
        message: errno.to_string(),
    })?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
