//! Devices that belong to no known pod, as reported by discovery.

use std::collections::BTreeSet;

/// What discovery reports about devices that belong to no known pod.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Others {
    /// Devices that lead to unknown pods.
    pub strangers: Vec<Stranger>,
    /// All devices for which it is known whether they lead to a pod; if none, this is known for
    /// all devices. Other devices are left unchanged: a new one has no hook, so packets that come
    /// in there lack the mark and are dropped.
    pub judged: Option<BTreeSet<u32>>,
}

/// A device that leads to a pod that isn't known (yet).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// Index of the host-side device.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The pod recorded for the device by the pod runtime.
    pub pod: Option<String>,
    /// Whether all its traffic is dropped; otherwise it is treated like any other device.
    pub closed: bool,
}
