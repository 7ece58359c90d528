//! Filters on clsact qdiscs, where there are no tcx links (before Linux 6.6) or
//! where the agent is told to use them.
//!
//! A filter belongs to its device and stays when the agent ends. The next agent
//! finds it by its record, and puts its own program in its place.

mod records;
mod tc;
mod versions;

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::{ProgramError, TcAttachType};
use aya::util::KernelVersion;

use super::error::{DatapathError, chain};
use super::hook::Hook;
use super::load;

pub(super) use versions::{recorded, uninstall};

use records::{Record, Records};
use tc::{CLSACT, Candidate, Filter, Place, Tc};

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attach {
    /// By tcx links where the kernel has them (Linux 6.6), else as `Clsact`.
    #[default]
    Best,
    /// As filters on clsact qdiscs. Linux 4.5.
    Clsact,
}

impl Attach {
    /// Whether that comes down to filters on this kernel. tcx and its links came
    /// with 6.6 (commit e420bed02507).
    pub(super) fn by_clsact(self) -> bool {
        let has_tcx = || KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        self == Self::Clsact || !has_tcx()
    }
}

/// Handles are counted from here: "RF", then a number.
const HANDLE: u32 = 0x5246_0001;

/// All filters of this agent.
pub(super) struct Filters {
    tc: Tc,
    records: Records,
    held: BTreeMap<(u32, Hook), Place>,
}

impl Filters {
    /// Puts the new programs in the place of those of the last agent, each at
    /// once; records of filters that are gone are removed.
    pub(super) fn adopt(folder: &Path, ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut filters = Self {
            tc: Tc::open()?,
            records: Records::open(folder)?,
            held: BTreeMap::new(),
        };
        for record in filters.records.list()? {
            filters.adopt_one(record, ebpf)?;
        }
        Ok(filters)
    }

    fn adopt_one(&mut self, record: Record, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
        let Record::Filter(ifindex, hook, place) = record else {
            return Ok(());
        };
        let there = self.tc.filters(ifindex, hook.attach_type())?;
        let is_ours = |filter: &Filter| filter.place == place && is_named(filter, hook);
        let is_there = there.iter().any(is_ours);
        // Of two, one was about to be moved in front of the other.
        if is_there && !self.held.contains_key(&(ifindex, hook)) {
            let program = candidate(ebpf, hook)?;
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

    /// Whether a filter of ours is on a hook, as far as is known.
    pub(super) fn holds(&self, ifindex: u32, hook: Hook) -> bool {
        self.held.contains_key(&(ifindex, hook))
    }

    /// Devices that have one.
    pub(super) fn interfaces(&self) -> Vec<u32> {
        let mut interfaces: Vec<u32> = self.held.keys().map(|(ifindex, _)| *ifindex).collect();
        interfaces.dedup();
        interfaces
    }

    /// Attaches a program first on a hook, or sees to it that it stands there.
    pub(super) fn attach(
        &mut self,
        ifindex: u32,
        name: &str,
        hook: Hook,
        ebpf: &mut Ebpf,
    ) -> Result<(), DatapathError> {
        let program = candidate(ebpf, hook)?;
        let side = hook.attach_type();
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
            // In between the program runs twice, which changes no verdict.
            if let Some(old) = ours {
                self.tc.remove(ifindex, side, old)?;
                self.records.remove(Record::Filter(ifindex, hook, old))?;
            }
        }
        match there.first() {
            Some(other) if !first => Err(DatapathError::Behind {
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
        place: Place,
        program: Candidate<'_>,
    ) -> Result<(), DatapathError> {
        let record = Record::Filter(ifindex, hook, place);
        self.records.add(record)?;
        if let Err(error) = self.tc.add(ifindex, hook.attach_type(), place, program) {
            // The error tells more than one from tidying up would.
            let _ = self.records.remove(record);
            return Err(error);
        }
        self.held.insert((ifindex, hook), place);
        Ok(())
    }

    /// On a plain `ingress` qdisc a filter for egress would be taken, and run at
    /// ingress.
    fn ensure_clsact(&mut self, ifindex: u32, name: &str) -> Result<(), DatapathError> {
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
            Some(kind) => Err(DatapathError::PlainIngress {
                interface: name.to_owned(),
                kind: kind.to_owned(),
            }),
            None => Err(DatapathError::Program {
                operation: format!("adding clsact to {name}"),
                message: "somebody removes it at the same time".to_owned(),
            }),
        }
    }

    /// Removes our filter from a hook. The qdisc stays, also if we made it, until
    /// the device goes or we are uninstalled: the kernel stops a device for a
    /// moment when one comes or goes (`qdisc_graft` of net/sched/sch_api.c), and
    /// loses what is sent then.
    pub(super) fn detach(&mut self, ifindex: u32, hook: Hook) -> Result<(), DatapathError> {
        let Some(place) = self.held.remove(&(ifindex, hook)) else {
            return Ok(());
        };
        self.tc.remove(ifindex, hook.attach_type(), place)?;
        self.records.remove(Record::Filter(ifindex, hook, place))
    }

    /// Lets go of a device that has vanished, and of what was on it.
    pub(super) fn forget(&mut self, ifindex: u32) -> Result<(), DatapathError> {
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

    /// The filters of others on a device, in words. They run after tcx programs
    /// and, where ours are filters too, after ours; an OK of theirs takes the
    /// tag from the packet that says who sent it.
    pub(super) fn foreign(&mut self, ifindex: u32) -> Result<Vec<String>, DatapathError> {
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

    /// Removes the qdisc that we made, if nothing is on it.
    fn drop_qdisc(&mut self, ifindex: u32) -> Result<(), DatapathError> {
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

fn candidate(ebpf: &mut Ebpf, hook: Hook) -> Result<Candidate<'_>, DatapathError> {
    let name = hook.program();
    let failed = |error: ProgramError| DatapathError::Program {
        operation: format!("asking for the id of {name}"),
        message: chain(&error),
    };
    let program: &_ = load::program(ebpf, name)?;
    Ok(Candidate {
        name,
        id: program.info().map_err(failed)?.id(),
        fd: program.fd().map_err(failed)?.as_fd(),
    })
}

/// The program's own id is another with every agent.
fn is_named(filter: &Filter, hook: Hook) -> bool {
    filter.kind == "bpf" && filter.name == hook.program()
}

fn shown(filter: &Filter, side: TcAttachType) -> String {
    let side = match side {
        TcAttachType::Egress => "egress",
        _ => "ingress",
    };
    let Filter {
        kind, name, place, ..
    } = filter;
    let name = if name.is_empty() {
        ""
    } else {
        &format!(" {name}")
    };
    format!("{side} {kind}{name} (priority {})", place.priority)
}

/// Where to stand, and whether that is in front of everybody else.
///
/// Priority 1 is in front of all others, and a new filter in front of the old
/// ones of its priority; but a priority is of one kind and protocol, so one of
/// another kind there can't be passed.
fn choose(there: &[Filter], ours: Option<Place>) -> (Place, bool) {
    let mut others = there.iter().filter(|filter| Some(filter.place) != ours);
    let joins = |filter: &Filter| filter.kind == "bpf" && filter.every_protocol;
    let blocked = others.any(|filter| filter.place.priority == 1 && !joins(filter));
    let priority = if blocked {
        let taken = |priority: &u16| there.iter().any(|f| f.place.priority == *priority);
        (2..=u16::MAX).find(|p| !taken(p)).unwrap_or(u16::MAX)
    } else {
        1
    };
    let free = |handle: &u32| {
        let place = Place {
            priority,
            handle: *handle,
        };
        there.iter().all(|filter| filter.place != place)
    };
    let handle = (HANDLE..).find(free).unwrap_or(HANDLE);
    (Place { priority, handle }, !blocked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kind: &str, priority: u16, handle: u32) -> Filter {
        Filter {
            place: Place { priority, handle },
            kind: kind.to_owned(),
            every_protocol: true,
            name: String::new(),
            program: 0,
        }
    }

    fn place(priority: u16, handle: u32) -> Place {
        Place { priority, handle }
    }

    #[test]
    fn the_lowest_priority_number_is_taken_where_it_is_free() {
        assert_eq!(choose(&[], None), (place(1, HANDLE), true));
        let later = [filter("flower", 2, 1), filter("bpf", 49152, 1)];
        assert_eq!(choose(&later, None), (place(1, HANDLE), true));
    }

    #[test]
    fn a_program_at_the_lowest_one_is_joined_with_a_handle_that_is_free() {
        let there = [filter("bpf", 1, 1)];
        assert_eq!(choose(&there, None), (place(1, HANDLE), true));
        // Our own old filter stays until the new one stands in front.
        let behind = [filter("bpf", 1, 1), filter("bpf", 1, HANDLE)];
        let ours = Some(place(1, HANDLE));
        assert_eq!(choose(&behind, ours), (place(1, HANDLE + 1), true));
    }

    #[test]
    fn a_filter_of_another_kind_at_the_lowest_one_cannot_be_passed() {
        let there = [filter("u32", 1, 0x8000_0800), filter("bpf", 2, 1)];
        assert_eq!(choose(&there, None), (place(3, HANDLE), false));
        let mut one_protocol = filter("bpf", 1, 1);
        one_protocol.every_protocol = false;
        assert_eq!(choose(&[one_protocol], None), (place(2, HANDLE), false));
    }

    #[test]
    fn a_filter_is_shown_with_its_side_kind_name_and_priority() {
        let mut one = filter("bpf", 5, 1);
        assert_eq!(
            shown(&one, TcAttachType::Ingress),
            "ingress bpf (priority 5)"
        );
        one.name = "cil_from_container".to_owned();
        assert_eq!(
            shown(&one, TcAttachType::Egress),
            "egress bpf cil_from_container (priority 5)"
        );
    }
}
