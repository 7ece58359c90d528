//! Filters recorded in the folder of any version: taking them over or removing them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{HookError, Programs};

use super::records::{Record, Records};
use super::{Filter, Filters, is_named};

impl Filters {
    /// Replaces the programs of the filters that another version's folder records on these
    /// devices. A failure doesn't keep the remaining filters from being replaced.
    ///
    /// # Errors
    /// If a filter can't be replaced, or a record can't be read.
    pub fn take_over(
        &mut self,
        from: &Path,
        of_these: &dyn Fn(u32) -> bool,
        programs: &mut impl Programs,
    ) -> Result<(), HookError> {
        let theirs = Records::open(from)?;
        let mut taken = Ok(());
        for record in theirs.list()? {
            let (Record::Filter(ifindex, ..) | Record::Qdisc(ifindex)) = record else {
                continue;
            };
            if of_these(ifindex) {
                taken = taken.and(self.take_over_one(record, &theirs, programs));
            }
        }
        taken
    }

    /// Adds our record first and removes theirs last: a filter that runs the new program
    /// always has a record here.
    fn take_over_one(
        &mut self,
        record: Record,
        theirs: &Records,
        programs: &mut impl Programs,
    ) -> Result<(), HookError> {
        let is_taken = match record {
            Record::Filter(ifindex, hook, place) => self.held.get(&(ifindex, hook)) == Some(&place),
            _ => false,
        };
        if !is_taken {
            self.records.add(record)?;
            self.adopt_one(record, programs)?;
        }
        theirs.remove(record)
    }
}

/// Returns the devices with filters recorded in a pin directory of one ABI version.
///
/// # Errors
/// If the records can't be read, or belong to another network namespace.
pub fn recorded(folder: &Path) -> Result<BTreeSet<u32>, HookError> {
    let records = Records::open(folder)?.list()?;
    let filters = records.into_iter().filter_map(|record| match record {
        Record::Filter(ifindex, ..) => Some(ifindex),
        _ => None,
    });
    Ok(filters.collect())
}

/// Removes all filters recorded in a pin directory of one ABI version, and the
/// qdiscs added for them that hold nothing else. Returns the number of filters.
///
/// # Errors
/// If a filter or file can't be removed; the error names it.
pub fn uninstall(folder: &Path) -> Result<usize, HookError> {
    let mut filters = Filters::open(folder)?;
    let mut removed = 0;
    let records = filters.records.list()?;
    for record in &records {
        if let Record::Filter(ifindex, hook, place) = *record {
            let there = filters.tc.filters(ifindex, hook.attach_type())?;
            let ours = |filter: &Filter| filter.place == place && is_named(filter, hook);
            if there.iter().any(ours) {
                filters.tc.remove(ifindex, hook.attach_type(), place)?;
                removed += 1;
            }
            filters.records.remove(*record)?;
        }
    }
    for record in records {
        if let Record::Qdisc(ifindex) = record {
            filters.drop_qdisc(ifindex)?;
        }
    }
    filters.records.remove_folder()?;
    Ok(removed)
}
