//! The policy compiler on three large clusters.

use anyhow::Result;

use super::{Case, measured};

/// Measures time in one process and memory in another, whose allocator counts.
pub(super) fn cases() -> Result<Vec<Case>> {
    let mut cases = measured::cases("compile", &[])?;
    cases.extend(measured::cases("compile-memory", &[])?);
    // Grouped by case for readers; the order within a case is kept.
    let first = |name: &str, all: &[Case]| all.iter().position(|case| case.case == name);
    let order: Vec<Case> = cases.clone();
    cases.sort_by_key(|case| first(&case.case, &order));
    Ok(cases)
}
