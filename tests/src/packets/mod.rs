//! One table of packets, each with a description, a builder and what shall
//! become of it; three levels play it.
//!
//! | level | plays it through | in |
//! |---|---|---|
//! | host | the library over [`host::Host`] | `tests/packets_host.rs` |
//! | kernel | the loaded programs, by test run | `tests/packets_kernel.rs` |
//! | wire | real frames between network namespaces | `tests/packets_wire.rs` |
//!
//! All of them use the tables that the compiler makes of [`fixture`]'s objects.
//! Every row has ports of its own, so that no row meets another one's connections,
//! and a fixed bug becomes one more row.

mod bucket;
pub mod fixture;
pub mod frame;
pub mod host;
mod said;
mod sent;
pub mod step;

mod table;

pub use frame::Frame;
pub use step::{Arrival, Expected, Row, Series, Source, Step};
pub use table::rows;

/// Fails with all faults at once, one a line.
///
/// # Panics
/// If there is one.
pub fn assert_no_fault(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
