//! The effect of a change on all calls other than the one that it is for.

use std::net::IpAddr;

use serde::Serialize;

use crate::ports::{PortSpec, Ports};

use super::{
    Case, Party,
    compare::{Comparison, Pairs, Spot},
};

/// The maximum number of calls that are named; the rest are only counted.
const MOST_NAMED: usize = 10;

/// The side effects of a fix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// Calls between other workloads, or on other ports, that the fix allows.
    pub opens: Calls,
    /// Calls that the fix denies.
    pub closes: Calls,
    /// Whether the cluster has more kinds of pods than were compared, so the effect may be
    /// incomplete.
    pub partly: bool,
    /// The number of [`Effect::opens`] that aren't other ports of the requested call.
    #[serde(skip)]
    elsewhere: usize,
}

/// Calls by workload: all are counted, only the first ones are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// The number of pairs of caller and callee.
    pub count: usize,
    /// The first pairs, sorted.
    pub calls: Vec<ChangedCall>,
}

/// A caller, a callee and the ports that change between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedCall {
    /// The caller: `namespace/service`, `node` or `outside`.
    pub from: String,
    /// The callee, in the same form.
    pub to: String,
    /// `TCP/8080`, `TCP/8080-8090`, `TCP`, `ICMP`, or `all`.
    pub ports: Vec<String>,
}

impl Effect {
    /// Reports whether no other calls change.
    pub(super) fn is_own(&self) -> bool {
        self.badness() == (0, 0, false)
    }

    /// Returns a score; lower is better. Closing a call is worse than opening one. A label lets
    /// its pod call all ports that the callee declares; that is intended and doesn't count.
    pub(super) fn badness(&self) -> (usize, usize, bool) {
        (self.closes.count, self.elsewhere, self.partly)
    }
}

/// The requested call, by workload.
pub(super) struct Asked {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) ports: Ports,
}

/// One end of the requested call.
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

/// Compares the calls allowed before and after.
pub(super) fn compare(before: &Case<'_>, after: &Case<'_>, asked: &Asked) -> Effect {
    let work = Comparison::of(before, after, asked);
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
