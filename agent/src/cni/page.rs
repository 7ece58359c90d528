//! The network plugin's metrics.

use prometheus::{IntCounter, IntGauge, Registry};
use ringfence_api::CniStatus;

/// Adds the metrics to a page.
///
/// # Errors
/// Only if a name is given twice.
pub(crate) fn register(status: &CniStatus, registry: &Registry) -> prometheus::Result<()> {
    let installed = IntGauge::new(
        "ringfence_cni_installed",
        "1 if the network plugin of this version is in the node's chain of plugins.",
    )?;
    installed.set(status.is_installed().into());
    registry.register(Box::new(installed))?;
    let faults = IntGauge::new(
        "ringfence_cni_config_faults",
        "Files of the network configuration that no runtime accepts.",
    )?;
    faults.set(status.faults.len().try_into().unwrap_or(i64::MAX));
    registry.register(Box::new(faults))?;
    let rewrites = IntCounter::new(
        "ringfence_cni_config_rewrites_total",
        "Number of times the network plugin was put back into the chain after its removal.",
    )?;
    rewrites.inc_by(status.rewrites);
    registry.register(Box::new(rewrites))
}
