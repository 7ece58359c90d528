//! Explains why one call is allowed or denied, and finds the smallest change that would allow it.
//!
//! The verdict comes from the compiled tables through the same decision function as in the
//! datapath; the reasons come from the policies the tables were compiled from. A fix is tried on
//! a copy of the index before it is offered.

mod accept;
mod change;
mod compare;
mod effect;
mod exempt;
mod fix;
mod party;
mod rules;
mod service;
mod side;
mod trace;

#[cfg(test)]
mod effect_tests;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, ops::Deref};

use serde::Serialize;

use crate::{
    compile::policy::{Facts, Parsed, Policy},
    index::{Index, PodEntry, groups::PodId},
    ports::PortSpec,
    snapshot::Snapshot,
};

pub use effect::{Calls, ChangedCall, Effect};
pub use party::{ExplainError, Party, PartyKind};
use service::Called;
pub use service::{Backend, Via};
use side::Ends;
pub use side::{Allowing, Isolation, Side};

/// The verdict on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Allowed.
    Allowed,
    /// Allowed, but a staged policy would deny it.
    Audited,
    /// Denied.
    Denied,
}

/// The explanation of one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The caller. If a service has several pods, one with the worst verdict.
    pub from: Party,
    /// The callee, chosen the same way.
    pub to: Party,
    /// `TCP/8080`; the callee's own port if the call goes through a Service.
    pub port: PortSpec,
    /// The Service called, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// A remark on a Service that shows the callee's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The worse verdict of the two sides.
    pub verdict: Verdict,
    /// The verdicts over IPv4 and over IPv6, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub families: Option<[Verdict; 2]>,
    /// The caller's side.
    pub egress: Side,
    /// The callee's side.
    pub ingress: Side,
    /// The smallest change that would allow the call, or keep it allowed once staged policies are
    /// enforced; all entries are needed together. Empty if no change is needed or none helps.
    pub fix: Vec<Fix>,
    /// The side effects of the fix, all entries together; absent without a fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
}

/// A change to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// Kind and name: `Pod bank/ledger-0`.
    pub object: String,
    /// The form of [`Fix::patch`].
    pub form: Form,
    /// YAML to paste: a merge patch (RFC 7386) of the object, or a new object if it starts with
    /// `apiVersion`.
    pub patch: String,
    /// The effect, in one sentence.
    pub sentence: String,
}

/// How a change is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A merge patch of an existing object.
    Patch,
    /// A complete new object.
    Object,
}

/// Explains a call from `from` to `to`, each `ns/pod`, `ns/service`, `outside` or an address; a
/// leading `pod:` or `svc:` resolves ambiguity. A Service's address and port represent its
/// backends, each on its own port: nodes rewrite the packet before the sender's egress is
/// decided. On every other port, and if it is a pod's, the address is treated as if no Service
/// showed it.
///
/// # Errors
/// If a name isn't known, or is both a pod and a service of other pods.
pub fn explain(
    index: &Index,
    from: &str,
    to: &str,
    port: &PortSpec,
) -> Result<Explanation, ExplainError> {
    let case = Case::new(index);
    let from = party::find(&case, from)?;
    let Called {
        callees: to,
        mut via,
        note,
    } = service::find(&case, to, port)?;
    let pairs = from.iter().flat_map(|f| to.iter().map(move |t| (f, t)));
    let mut sides = Vec::new();
    for (f, t) in pairs {
        let calls = party::by_family(&case, f, &t.0).into_iter();
        let calls: Vec<_> = calls
            .map(|(f, party)| {
                let ends = Ends {
                    from: &f,
                    to: &party,
                    port: &t.1,
                    through: via.is_some(),
                };
                let (egress, ingress) = side::both(&case, &ends);
                (
                    egress.verdict.max(ingress.verdict),
                    (f, party),
                    egress,
                    ingress,
                )
            })
            .collect();
        let families = match calls.as_slice() {
            [four, six] if four.0 != six.0 => Some([four.0, six.0]),
            _ => None,
        };
        let calls = calls.into_iter();
        sides.extend(calls.map(|(verdict, ends, egress, ingress)| Call {
            verdict,
            families,
            ends,
            callee: t,
            egress,
            ingress,
        }));
    }
    if let Some(via) = &mut via {
        via.backends = to.iter().map(|t| backend(t, &sides)).collect();
    }
    // The first call with the worst verdict.
    let worst = sides
        .into_iter()
        .reduce(|a, b| if b.verdict > a.verdict { b } else { a });
    let Some(worst) = worst else {
        return Err(ExplainError::NoPods);
    };
    let Call {
        verdict,
        families,
        ends: (from, to),
        callee: (_, port),
        egress,
        ingress,
    } = worst;
    let fix = match verdict {
        Verdict::Allowed => None,
        worse => {
            let ends = Ends {
                from: &from,
                to: &to,
                port,
                through: via.is_some(),
            };
            fix::find(&case, &ends, worse, &egress, &ingress)
        }
    };
    let (fix, effect) = fix.map_or((Vec::new(), None), |(fix, effect)| (fix, Some(effect)));
    Ok(Explanation {
        from,
        to,
        port: *port,
        via,
        note,
        verdict,
        families,
        egress,
        ingress,
        fix,
        effect,
    })
}

/// One call over one address family.
struct Call<'c> {
    verdict: Verdict,
    families: Option<[Verdict; 2]>,
    ends: (Party, Party),
    callee: &'c service::Callee,
    egress: Side,
    ingress: Side,
}

/// Returns a callee with the worst verdict of any call to it.
fn backend(callee: &service::Callee, calls: &[Call<'_>]) -> Backend {
    let to_it = calls
        .iter()
        .filter(|call| std::ptr::eq(call.callee, callee));
    let (party, port) = callee;
    Backend {
        name: party.name.clone(),
        port: *port,
        verdict: to_it
            .map(|call| call.verdict)
            .max()
            .unwrap_or(Verdict::Allowed),
    }
}

/// The compiled cluster and its sources.
struct Case<'a> {
    /// The index as given.
    given: &'a Index,
    /// A copy in which every pod has an address, with its tables.
    snapshot: Snapshot,
    parsed: RefCell<Parsed>,
}

/// Dereferences to the snapshot; a case only adds a cache of parsed policies.
impl Deref for Case<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl<'a> Case<'a> {
    fn new(given: &'a Index) -> Self {
        Self {
            given,
            snapshot: Snapshot::new(given),
            parsed: RefCell::default(),
        }
    }

    fn pod(&self, party: &Party) -> Option<&PodEntry> {
        party.pod.and_then(|id| self.index.entry(id))
    }

    fn addresses(&self, party: &Party) -> Vec<std::net::IpAddr> {
        let pod: Option<PodId> = party.pod;
        pod.map(|id| self.index.addresses_of(id))
            .unwrap_or_default()
    }

    /// Returns the policies of a pod, in evaluation order.
    fn policies(&self, party: &Party) -> Vec<Policy> {
        let group = party.pod.and_then(|id| self.index.group_of(id));
        let facts = Facts::new(&self.index);
        group.map_or_else(Vec::new, |g| self.parsed.borrow_mut().of(&facts, g))
    }
}
