//! What can go wrong on order.

use std::time::Duration;

/// A fault. It strikes when its resource next gives it a chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A list or the start of a watch is answered with this instead.
    Answer {
        /// Status, such as 500, 429 or 410.
        code: u16,
        /// Seconds of `Retry-After`, if any.
        retry_after: Option<u32>,
        /// The body; where empty, the Status object that goes with the code.
        body: String,
    },
    /// An open watch ends with an ERROR event of code 410.
    GoneEvent,
    /// An open watch tells half of its next event, and the connection breaks.
    ResetMidEvent,
    /// An open watch tells its next event twice.
    Duplicate,
    /// An open watch tells the next two events in the wrong order. It waits until
    /// there are two.
    Reorder,
    /// An open watch tells this line instead of its next event.
    Garbage(String),
    /// A watch, open or new, says nothing from now on and doesn't end, until its
    /// client breaks it off.
    Silence,
    /// A list, streaming or not, pauses this long in its middle.
    SlowList(Duration),
    /// A list, streaming or not, breaks off in its middle.
    BrokenList,
}

impl Fault {
    /// An answer of this code.
    pub const fn status(code: u16) -> Self {
        Self::Answer {
            code,
            retry_after: None,
            body: String::new(),
        }
    }

    /// 429, to be asked again after so many seconds.
    pub const fn too_many_requests(seconds: u32) -> Self {
        Self::Answer {
            code: 429,
            retry_after: Some(seconds),
            body: String::new(),
        }
    }
}

/// Those that are on order.
#[derive(Default)]
pub(super) struct Faults {
    ordered: Vec<(String, Fault, usize)>,
    pub(super) struck: u64,
}

impl Faults {
    pub(super) fn add(&mut self, resource: &str, fault: Fault, times: usize) {
        self.ordered.push((resource.to_owned(), fault, times));
    }

    pub(super) fn clear(&mut self) {
        self.ordered.clear();
    }

    /// Whether a fault is on order.
    pub(super) fn is_ordered(&self, resource: &str, fault: &Fault) -> bool {
        let of = |name: &str| name == "*" || name == resource;
        let mut all = self.ordered.iter();
        all.any(|(name, one, left)| *left > 0 && of(name) && one == fault)
    }

    /// Takes one that fits off its order.
    pub(super) fn strike(
        &mut self,
        resource: &str,
        fits: impl Fn(&Fault) -> bool,
    ) -> Option<Fault> {
        let of = |name: &str| name == "*" || name == resource;
        let mut all = self.ordered.iter_mut();
        let (_, fault, left) =
            all.find(|(name, fault, left)| *left > 0 && of(name) && fits(fault))?;
        *left -= 1;
        self.struck += 1;
        Some(fault.clone())
    }
}
