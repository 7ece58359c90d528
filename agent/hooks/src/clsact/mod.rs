//! Filters on clsact qdiscs, used on kernels without tcx links (before Linux 6.6) or
//! if the agent is configured to use them.
//!
//! A filter belongs to its device and stays when the agent exits. The next agent
//! finds it by its record and replaces its program.

mod choice;
mod records;
mod tc;
mod versions;

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::programs::{ProgramError, TcAttachType};
use aya::util::KernelVersion;

use crate::HookError;
use crate::{Hook, Programs};

pub use versions::{recorded, uninstall};

use choice::{choose, shown};
use records::{Record, Records};
use tc::{CLSACT, Candidate, Filter, Position, Tc};

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attach {
    /// By tcx links if the kernel has them (Linux 6.6), else as `Clsact`.
    #[default]
    Best,
    /// As filters on clsact qdiscs. Linux 4.5.
    Clsact,
}

impl Attach {
    /// Reports whether programs are attached as filters on this kernel. tcx and its links
    /// were added in 6.6 (commit e420bed02507).
    pub fn by_clsact(self) -> bool {
        let has_tcx = || KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        self == Self::Clsact || !has_tcx()
    }
}

/// All filters of this agent.
pub struct Filters {
    tc: Tc,
    records: Records,
    held: BTreeMap<(u32, Hook), Position>,
}

impl Filters {
    /// Opens the filters recorded in a pin directory of one ABI version. None is known to be
    /// attached yet.
    ///
    /// # Errors
    /// If the records belong to another network namespace.
    pub fn open(folder: &Path) -> Result<Self, HookError> {
        Ok(Self {
            tc: Tc::open()?,
            records: Records::open(folder)?,
            held: BTreeMap::new(),
        })
    }

    /// Replaces the programs of the previous agent with the new ones, each atomically;
    /// removes the records of filters that are gone.
    ///
    /// # Errors
    /// If a filter can't be replaced, or a record can't be read.
    pub fn adopt(folder: &Path, programs: &mut impl Programs) -> Result<Self, HookError> {
        let mut filters = Self::open(folder)?;
        for record in filters.records.list()? {
            filters.adopt_one(record, programs)?;
        }
        Ok(filters)
    }

    fn adopt_one(&mut self, record: Record, programs: &mut impl Programs) -> Result<(), HookError> {
        let Record::Filter(ifindex, hook, place) = record else {
            return Ok(());
        };
        let there = self.tc.filters(ifindex, hook.attach_type())?;
        let is_ours = |filter: &Filter| filter.place == place && is_named(filter, hook);
        let is_there = there.iter().any(is_ours);
        // If there are two, one was about to be moved in front of the other.
        if is_there && !self.held.contains_key(&(ifindex, hook)) {
            let program = candidate(programs, hook)?;
            self.tc
                .replace(ifindex, hook.attach_type(), place, program)?;
            self.held.insert((ifindex, hook), place);
            return Ok(());
        }
        if is_there {
            self.tc.remove(ifindex, hook.attach_type(), place)?;
        }
        self.records.remove(record)
    }

    /// Reports whether one of our filters is known to be on a hook.
    pub fn holds(&self, ifindex: u32, hook: Hook) -> bool {
        self.held.contains_key(&(ifindex, hook))
    }

    /// Looks for one of our filters on a hook, by the records: another process may have
    /// attached it. Returns whether there is one.
    ///
    /// # Errors
    /// If records or filters can't be listed.
    pub fn find(&mut self, ifindex: u32, hook: Hook) -> Result<bool, HookError> {
        if self.holds(ifindex, hook) {
            return Ok(true);
        }
        let records = self.records.list()?.into_iter();
        let mut places = records.filter_map(|record| match record {
            Record::Filter(of, on, place) if (of, on) == (ifindex, hook) => Some(place),
            _ => None,
        });
        let there = self.tc.filters(ifindex, hook.attach_type())?;
        let is_there =
            |place: &Position| there.iter().any(|f| f.place == *place && is_named(f, hook));
        let found = places.find(is_there);
        if let Some(place) = found {
            self.held.insert((ifindex, hook), place);
        }
        Ok(found.is_some())
    }

    /// Returns the devices that have at least one of our filters.
    pub fn interfaces(&self) -> Vec<u32> {
        let mut interfaces: Vec<u32> = self.held.keys().map(|(ifindex, _)| *ifindex).collect();
        interfaces.dedup();
        interfaces
    }

    /// Attaches a program first on a hook, unless it is already first. Takes over a filter that
    /// another process of ours has attached.
    ///
    /// # Errors
    /// If the kernel refuses, or another program's filter stays in front of ours.
    pub fn attach(
        &mut self,
        ifindex: u32,
        name: &str,
        hook: Hook,
        programs: &mut impl Programs,
    ) -> Result<(), HookError> {
        let side = hook.attach_type();
        let is_known = self.holds(ifindex, hook);
        let is_there = self.find(ifindex, hook)?;
        let program = candidate(programs, hook)?;
        if let Some(place) = self.held.get(&(ifindex, hook))
            && is_there
            && !is_known
        {
            self.tc.replace(ifindex, side, *place, program)?;
        }
        let there = self.tc.filters(ifindex, side)?;
        let ours = self.held.get(&(ifindex, hook)).copied();
        let ours = ours.filter(|place| {
            let is = |filter: &Filter| filter.place == *place && filter.program == program.id;
            there.iter().any(is)
        });
        if ours.is_some() && there.first().map(|filter| filter.place) == ours {
            return Ok(());
        }
        let (place, first) = choose(&there, ours);
        if first || ours.is_none() {
            self.ensure_clsact(ifindex, name)?;
            self.put(ifindex, hook, place, program)?;
            // For a moment the program runs twice, which changes no verdict.
            if let Some(old) = ours {
                self.tc.remove(ifindex, side, old)?;
                self.records.remove(Record::Filter(ifindex, hook, old))?;
            }
        }
        match there.first() {
            Some(other) if !first => Err(HookError::Behind {
                program: program.name,
                interface: name.to_owned(),
                other: shown(other, side),
            }),
            _ => Ok(()),
        }
    }

    fn put(
        &mut self,
        ifindex: u32,
        hook: Hook,
        place: Position,
        program: Candidate<'_>,
    ) -> Result<(), HookError> {
        let record = Record::Filter(ifindex, hook, place);
        self.records.add(record)?;
        if let Err(error) = self.tc.add(ifindex, hook.attach_type(), place, program) {
            // This error is more useful than one from the cleanup.
            let _ = self.records.remove(record);
            return Err(error);
        }
        self.held.insert((ifindex, hook), place);
        Ok(())
    }

    /// Makes sure that the device has a clsact qdisc. A plain `ingress` qdisc would accept a
    /// filter for egress and run it at ingress.
    fn ensure_clsact(&mut self, ifindex: u32, name: &str) -> Result<(), HookError> {
        if self.tc.qdisc(ifindex)?.is_none() {
            let record = Record::Qdisc(ifindex);
            self.records.add(record)?;
            match self.tc.add_clsact(ifindex) {
                Ok(true) => return Ok(()),
                Ok(false) => self.records.remove(record)?,
                Err(error) => {
                    let _ = self.records.remove(record);
                    return Err(error);
                }
            }
        }
        match self.tc.qdisc(ifindex)?.as_deref() {
            Some(CLSACT) => Ok(()),
            Some(kind) => Err(HookError::PlainIngress {
                interface: name.to_owned(),
                kind: kind.to_owned(),
            }),
            None => Err(HookError::said(
                format!("adding clsact to {name}"),
                "somebody removes it at the same time".to_owned(),
            )),
        }
    }

    /// Removes our filter from a hook. The qdisc stays, even if we added it, until
    /// the device goes away or Ringfence is uninstalled: the kernel briefly stops a device
    /// when a qdisc is added or removed (`qdisc_graft` of net/sched/sch_api.c), and drops
    /// packets sent in the meantime.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach(&mut self, ifindex: u32, hook: Hook) -> Result<(), HookError> {
        let Some(place) = self.held.remove(&(ifindex, hook)) else {
            return Ok(());
        };
        self.tc.remove(ifindex, hook.attach_type(), place)?;
        self.records.remove(Record::Filter(ifindex, hook, place))
    }

    /// Drops the state and records of a device that has vanished.
    ///
    /// # Errors
    /// If a record can't be removed.
    pub fn forget(&mut self, ifindex: u32) -> Result<(), HookError> {
        for record in self.records.list()? {
            match record {
                Record::Filter(of, ..) | Record::Qdisc(of) if of == ifindex => {
                    self.records.remove(record)?;
                }
                _ => {}
            }
        }
        self.held.retain(|(of, _), _| *of != ifindex);
        Ok(())
    }

    /// Describes the filters of other programs on a device. They run after tcx programs
    /// and, if ours are filters too, after ours; if one of them returns OK, the packet loses
    /// the tag that identifies its sender.
    ///
    /// # Errors
    /// If the filters can't be listed.
    pub fn foreign(&mut self, ifindex: u32) -> Result<Vec<String>, HookError> {
        let mut foreign = Vec::new();
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let ours = |filter: &&Filter| {
                let mut held = self.held.iter();
                held.any(|((of, hook), place)| {
                    *of == ifindex && hook.attach_type() == side && *place == filter.place
                })
            };
            let there = self.tc.filters(ifindex, side)?;
            let others = there.iter().filter(|filter| !ours(filter));
            foreign.extend(others.map(|filter| shown(filter, side)));
        }
        Ok(foreign)
    }

    /// Removes the qdisc that we added, if it has no filters.
    fn drop_qdisc(&mut self, ifindex: u32) -> Result<(), HookError> {
        let mut empty = self.tc.qdisc(ifindex)?.as_deref() == Some(CLSACT);
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            empty = empty && self.tc.filters(ifindex, side)?.is_empty();
        }
        if empty {
            self.tc.remove_clsact(ifindex)?;
        }
        self.records.remove(Record::Qdisc(ifindex))
    }
}

fn candidate(programs: &mut impl Programs, hook: Hook) -> Result<Candidate<'_>, HookError> {
    let name = hook.program();
    let failed =
        |error: ProgramError| HookError::program(format!("asking for the id of {name}"), &error);
    let program: &_ = programs.of_hook(hook)?;
    Ok(Candidate {
        name,
        id: program.info().map_err(failed)?.id(),
        fd: program.fd().map_err(failed)?.as_fd(),
    })
}

/// Matches by name, since the program's id differs with every agent.
fn is_named(filter: &Filter, hook: Hook) -> bool {
    filter.kind == "bpf" && filter.name == hook.program()
}
