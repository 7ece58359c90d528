//! What a change does to all calls, beside the one that it is for.

use std::net::IpAddr;

use serde::Serialize;

use crate::ports::{PortSpec, Ports};

use super::{
    Case, Party,
    compare::{Pairs, Spot, Work},
};

/// So many calls are named; the others are counted.
const MOST_NAMED: usize = 10;

/// What a fix does beside what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// Calls between other workloads, or on other ports, that it allows.
    pub opens: Calls,
    /// Calls that it denies.
    pub closes: Calls,
    /// The cluster has more kinds of pods than were compared: there may be more.
    pub partly: bool,
    /// How many of [`Effect::opens`] aren't other ports of the call that was asked for.
    #[serde(skip)]
    elsewhere: usize,
}

/// Calls by workload: all are counted, the first are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// How many pairs of a caller and a callee there are.
    pub count: usize,
    /// The first of them, sorted.
    pub calls: Vec<ChangedCall>,
}

/// A caller, a callee and the ports that change between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedCall {
    /// The caller: `namespace/service`, `node` or `outside`.
    pub from: String,
    /// The callee, likewise.
    pub to: String,
    /// `TCP/8080`, `TCP/8080-8090`, `TCP`, `ICMP`, or `all`.
    pub ports: Vec<String>,
}

impl Effect {
    /// Whether nobody else's calls change.
    pub(super) fn is_own(&self) -> bool {
        self.badness() == (0, 0, false)
    }

    /// The less, the better: to close something is worse than to open something. A label
    /// lets its pod call all ports that the callee declares: that is meant so.
    pub(super) fn badness(&self) -> (usize, usize, bool) {
        (self.closes.count, self.elsewhere, self.partly)
    }
}

/// What was asked for, by workload.
pub(super) struct Asked {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) ports: Ports,
}

/// One end of it.
pub(super) enum End {
    Workload(String),
    Address(IpAddr),
    Outside,
}

impl Asked {
    pub(super) fn new(from: &Party, to: &Party, port: &PortSpec) -> Self {
        Self {
            from: End::of(from),
            to: End::of(to),
            ports: match port.with_ports() {
                Some(protocol) => Ports::one(protocol, port.port),
                None => Ports::without_ports(),
            },
        }
    }
}

impl End {
    fn of(party: &Party) -> Self {
        match (party.pod, party.address) {
            (Some(_), _) => Self::Workload(party.workload.clone()),
            (None, Some(ip)) => Self::Address(ip),
            (None, None) => Self::Outside,
        }
    }

    pub(super) fn is_workload(&self, name: &str) -> bool {
        matches!(self, Self::Workload(own) if own == name)
    }

    pub(super) fn is_spot(&self, spot: &Spot) -> bool {
        match self {
            Self::Workload(_) => false,
            Self::Address(ip) => spot.ip == *ip,
            Self::Outside => spot.is_outside,
        }
    }
}

/// Compares what is with what would be.
pub(super) fn compare(before: &Case<'_>, after: &Case<'_>, asked: &Asked) -> Effect {
    let work = Work::of(before, after, asked);
    Effect {
        opens: calls(&work.opens),
        closes: calls(&work.closes),
        partly: work.partly,
        elsewhere: work.elsewhere.len(),
    }
}

fn calls(found: &Pairs) -> Calls {
    let named = found.iter().take(MOST_NAMED);
    let call = |((from, to), ports): (&(String, String), &Ports)| ChangedCall {
        from: from.clone(),
        to: to.clone(),
        ports: ports.ranges_text(),
    };
    Calls {
        count: found.len(),
        calls: named.map(call).collect(),
    }
}
