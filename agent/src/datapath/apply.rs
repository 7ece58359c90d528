//! Puts a new generation in force: write the standby buffer, flip, wait for readers, bring the
//! other buffer up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use ringfence_ebpf::abi::{Buffer, Control};
use ringfence_policy::diff::Change;
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::Tables;

use super::attach::managed;
use super::devices::{self, Devices};
use super::dump::Dump;
use super::endpoints::{self, Desired};
use super::error::DatapathError;
use super::{Applied, Datapath, Followed, Interface};

impl Datapath {
    /// Puts tables and interfaces in force regardless of the previous state: reads the maps to
    /// find what they lack. [`Datapath::apply_change`] doesn't need to read them.
    ///
    /// # Errors
    /// Returns the errors described for [`Applied::error`] and [`Datapath::apply_change`].
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

    /// Puts tables and interfaces in force when the tables differ from those of the last call only
    /// by `change`. If `change` doesn't follow on the last call, this acts like
    /// [`Datapath::apply`].
    ///
    /// Packets read the active buffer until a single word is flipped, so no verdict is based on a
    /// partial change. Blocks for one grace period (about 8 ms) if it flips.
    ///
    /// If the tables can't be written, the previous state stays in force, except for changes that
    /// can't wait: see [`Applied::error`]. The standby buffer keeps the entries written so far and
    /// the next call continues from there. An interface to which the programs can't be attached
    /// doesn't fail the call: see [`Applied::failed`] and [`Applied::unhooked`].
    ///
    /// # Errors
    /// Fails if the node's devices can't be listed; nothing has been changed then.
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

    /// Works like [`Datapath::apply_change`] with the interfaces of the last call, without looking
    /// at any of them: for changes that leave every pod where it is.
    ///
    /// # Errors
    /// Returns the errors described for [`Applied::error`].
    pub fn apply_delta(
        &mut self,
        tables: &Tables,
        change: &Change,
    ) -> Result<Followed, DatapathError> {
        let interfaces = std::mem::take(&mut self.interfaces);
        let followed = self.put_in_force(tables, Some(change), &interfaces);
        self.interfaces = interfaces;
        followed
    }

    /// Applies tables and interfaces. Attaching doesn't depend on the tables: a pod whose policy
    /// can't be written is closed by its own programs. Returns the first error.
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
        let settled = self.reconcile_quotas();
        let settled = match followed {
            Ok(_) => settled.and(self.reconcile_names(tables)),
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
                applied.closed = self.endpoints.closed(tables, self.buffers.active);
                Some(error)
            }
        };
        let failed = failed.or(swept.err()).or(moved.err()).or(asked.err());
        Ok((applied, failed.or(settled.err())))
    }

    /// Puts tables in force; if that fails, puts the changes in force that can't wait for them.
    fn put_in_force(
        &mut self,
        tables: &Tables,
        change: Option<&Change>,
        interfaces: &[Interface],
    ) -> Result<Followed, DatapathError> {
        let followed = self.put_all_in_force(tables, change, interfaces);
        if followed.is_err() {
            // This is worse than a full table, so report this error instead.
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
        // After an error halfway it is unknown which rules connections were decided against, and a
        // new process can't tell what the pinned buffer meant for each endpoint. In both cases
        // every connection is decided again.
        let trusted = std::mem::take(&mut self.trusted);
        let raises = |pod: &PodKey| match &raised {
            Ok(Some(change)) if trusted => change.raised.contains(pod),
            _ => true,
        };
        let wanted =
            endpoints::wanted(&mut self.maps, &mut self.names, tables, interfaces, &raises)?;
        self.endpoints
            .occupant(&mut self.maps, &wanted, pickup_until)?;
        let hidden_alike = self.hides_services == tables.hides_services;
        self.hide_services(tables)?;
        let raised = raised?.filter(|_| trusted);
        let keeps_endpoints = hidden_alike
            && raised.is_some()
            && wanted.iter().all(|one| !one.raised)
            && self.endpoints.are_in_force(&wanted);
        let mut followed = Followed::default();
        if keeps_endpoints && self.buffers.are_level() {
            // Nothing differs.
        } else if keeps_endpoints && raised.is_some_and(|change| change.additive) {
            // Only new addresses of existing classes: both buffers can take them without a flip.
            self.add_addresses(tables, &mut followed)?;
        } else {
            self.replace(tables, &wanted, pickup_until, &mut followed)?;
        }
        self.trusted = true;
        followed.generation = self.buffers.generation;
        Ok(followed)
    }

    /// Returns until when endpoints pick up connections that are older than this agent, or zero
    /// once the window is over.
    fn pickup_until(&self) -> Result<u64, DatapathError> {
        let open = monotonic()? < self.pickup_until;
        Ok(if open { self.pickup_until } else { 0 })
    }

    /// Records what the buffers lack. Returns the change if it follows on the tables of the last
    /// call.
    fn take_note<'c>(
        &mut self,
        tables: &Tables,
        change: Option<&'c Change>,
    ) -> Result<Option<&'c Change>, DatapathError> {
        let follows = change.filter(|change| self.seen == Some(change.since));
        match follows {
            Some(change) => self.buffers.note(&change.keys),
            None => {
                self.seen = None;
                let dump = Dump::read(&self.maps)?;
                let names = &self.names;
                self.buffers
                    .compare(&dump, tables, |name| names.known(name));
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
        let active = self.buffers.active;
        let (maps, names) = (&mut self.maps, &mut self.names);
        self.buffers.write(maps, names, active, tables)?;
        // Invalidates what CPUs have cached for these addresses.
        self.flip(active, tables)?;
        followed.at = Instant::now();
        let (maps, names) = (&mut self.maps, &mut self.names);
        self.buffers.write(maps, names, active ^ 1, tables)
    }

    fn replace(
        &mut self,
        tables: &Tables,
        wanted: &[Desired<'_>],
        pickup_until: u64,
        followed: &mut Followed,
    ) -> Result<(), DatapathError> {
        let standby = self.buffers.standby();
        self.buffers
            .write(&mut self.maps, &mut self.names, standby, tables)?;
        let refused = self
            .endpoints
            .write(&mut self.maps, standby, wanted, pickup_until)?;
        let refused = refused.into_iter();
        followed
            .refused
            .extend(refused.map(|(pod, error)| (pod, error.to_string())));
        self.flip(standby, tables)?;
        // In force from here on; if a later step fails, the next call brings the buffers up to
        // date.
        (followed.flipped, followed.at) = (true, Instant::now());
        self.maps.wait_for_readers()?;
        self.buffers
            .write(&mut self.maps, &mut self.names, standby ^ 1, tables)?;
        let settled: Vec<Desired<'_>> = wanted
            .iter()
            .map(|one| Desired {
                raised: false,
                ..one.clone()
            })
            .collect();
        self.endpoints
            .write(&mut self.maps, standby ^ 1, &settled, pickup_until)?;
        Ok(())
    }

    /// Makes a buffer active, or publishes additions to the buffer that is already active.
    fn flip(&mut self, buffer: Buffer, tables: &Tables) -> Result<(), DatapathError> {
        self.hides_services = tables.hides_services;
        let generation = self.buffers.generation + 1;
        let control = self.control(generation, buffer);
        self.maps.set_control(control)?;
        self.buffers.generation = generation;
        self.buffers.active = buffer;
        Ok(())
    }

    /// Starts treating any unknown address as a Service's before the first Service is hidden, if
    /// the tables ask for it. The flip ends this once no Service is hidden.
    fn hide_services(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        if self.hides_services || !tables.hides_services {
            return Ok(());
        }
        self.hides_services = true;
        let control = self.control(self.buffers.generation, self.buffers.active);
        let written = self.maps.set_control(control);
        // Retry if the write failed.
        self.hides_services = written.is_ok();
        written
    }

    /// Returns the content of `CONTROL` for a generation.
    pub(super) fn control(&self, generation: u64, buffer: Buffer) -> Control {
        Control {
            state: Control::state(generation, buffer),
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

    /// Starts requiring the mark that a hook sets on packets it sees come in. By now every hook
    /// sets it, and programs that didn't have ended. A device that couldn't be hooked is closed.
    fn ask_for_mark(&mut self) -> Result<(), DatapathError> {
        if self.marked || !self.predecessors.is_empty() {
            return Ok(());
        }
        self.maps.wait_for_readers()?;
        self.marked = true;
        let control = self.control(self.buffers.generation, self.buffers.active);
        let set = self.maps.set_control(control);
        let set = set.and_then(|()| self.maps.note_mark(self.options.seen_mark));
        set.inspect_err(|_| self.marked = false)
    }

    /// Frees what belonged to interfaces that have vanished. Continues after an error, so that one
    /// failure doesn't keep the rest from being freed.
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

/// Returns `CLOCK_MONOTONIC` in nanoseconds, the clock of the pick-up window.
pub(super) fn monotonic() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| DatapathError::Program {
        operation: "reading CLOCK_MONOTONIC".to_owned(),
        message: errno.to_string(),
    })?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
