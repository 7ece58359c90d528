//! Devices that are no known pod's, as discovery tells of them.

use std::collections::BTreeSet;

/// What discovery says of devices that are no known pod's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Others {
    /// Devices that lead to pods which nobody knows.
    pub strangers: Vec<Stranger>,
    /// All devices of which it is known whether a pod is behind them; all that there are
    /// if none. Any other one is left as it is: a new one has no hook, so that what comes
    /// in there was seen by none and goes nowhere.
    pub judged: Option<BTreeSet<u32>>,
}

/// A device that leads to a pod which nobody knows (yet).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The pod that the runtime has on record for it.
    pub pod: Option<String>,
    /// Nothing passes it; else it is a device like any other.
    pub closed: bool,
}
