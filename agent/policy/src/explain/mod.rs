//! Why one call is allowed or denied, and the smallest change that would allow it.
//!
//! The verdict comes from the compiled tables through the decision that the
//! datapath takes; the reasons come from the very policies they were compiled
//! from. A fix is tried on a copy of the index before it is offered.

mod accept;
mod change;
mod fix;
mod party;
mod side;
mod trace;
mod yaml;

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use serde::Serialize;

use crate::{
    compile::policy::{Facts, Parsed, Policy},
    index::{Index, PodEntry, Scope, groups::PodId},
    ports::PortSpec,
    tables::Tables,
};

pub use party::{ExplainError, Party, PartyKind};
pub use side::{Allowing, Isolation, Side};

/// Whether a call goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does.
    Allowed,
    /// It does, but a staged policy would deny it.
    Audited,
    /// It doesn't.
    Denied,
}

/// Why one call is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The caller. Of several pods of a service, one with the worst verdict.
    pub from: Party,
    /// The callee, likewise.
    pub to: Party,
    /// `TCP/8080`.
    pub port: PortSpec,
    /// The worse of both sides.
    pub verdict: Verdict,
    /// The caller's side.
    pub egress: Side,
    /// The callee's side.
    pub ingress: Side,
    /// The smallest change that would allow it, or keep it allowed once staged
    /// policies are enforced: all entries together. Empty if neither is needed.
    pub fix: Vec<Fix>,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// Kind and name: `Pod bank/ledger-0`.
    pub object: String,
    /// YAML to paste: a merge patch (RFC 7386) of the object, or a new object
    /// if it starts with `apiVersion`.
    pub patch: String,
    /// What it does, in one sentence.
    pub sentence: String,
}

/// Explains a call from `from` to `to`, each `ns/pod`, `ns/service`, `outside`
/// or an address; `pod:` and `svc:` in front say which is meant.
///
/// # Errors
/// A name that isn't known, or that is both a pod and a service of other pods.
pub fn explain(
    index: &Index,
    from: &str,
    to: &str,
    port: &PortSpec,
) -> Result<Explanation, ExplainError> {
    let case = Case::new(index);
    let from = party::find(&case, from)?;
    let to = party::find(&case, to)?;
    let pairs = from.iter().flat_map(|f| to.iter().map(move |t| (f, t)));
    let sides = pairs.map(|(f, t)| {
        let (egress, ingress) = side::both(&case, f, t, port);
        (egress.verdict.max(ingress.verdict), f, t, egress, ingress)
    });
    // The first of the worst.
    let worst = sides.reduce(|a, b| if b.0 > a.0 { b } else { a });
    let Some((verdict, from, to, egress, ingress)) = worst else {
        return Err(ExplainError::NoPods);
    };
    let fix = match verdict {
        Verdict::Allowed => Vec::new(),
        worse => fix::find(&case, (from, to, port), worse, &egress, &ingress),
    };
    Ok(Explanation {
        from: from.clone(),
        to: to.clone(),
        port: *port,
        verdict,
        egress,
        ingress,
        fix,
    })
}

/// Everything compiled, and what it was compiled from.
struct Case<'a> {
    /// As it was given.
    given: &'a Index,
    /// A copy in which every pod has an address.
    index: Index,
    parsed: RefCell<Parsed>,
    tables: Tables,
}

impl<'a> Case<'a> {
    fn new(given: &'a Index) -> Self {
        let index = given.with_made_up_addresses();
        let tables = index.compile(&Scope::Everything);
        Self {
            given,
            index,
            parsed: RefCell::default(),
            tables,
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

    /// The policies of a pod, in the order in which they decide.
    fn policies(&self, party: &Party) -> Vec<Policy> {
        let group = party.pod.and_then(|id| self.index.group_of(id));
        let facts = Facts::new(&self.index);
        group.map_or_else(Vec::new, |g| self.parsed.borrow_mut().of(&facts, g))
    }
}
