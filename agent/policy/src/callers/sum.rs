//! One caller, combined from its pairs with the service's pods.

use crate::ports::Ports;

use super::{Caller, CallerKind, Egress, Through, callee::Allowed};

/// The ports a callee allows a class, and the rules that allow them.
pub(super) struct Found {
    pub(super) allowed: Allowed,
    pub(super) through: Vec<Line>,
}

/// Like [`Through`], but with ports as a set that can be added to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) policy: String,
    pub(super) rule: String,
    pub(super) staged: bool,
    pub(super) ports: Ports,
}

/// One caller, combined from the pairs of its pods with the service's pods.
#[derive(Debug, Default)]
pub(super) struct Sum {
    any: Allowed,
    pub(super) all: Option<Allowed>,
    egress: Option<Egress>,
    through: Vec<Line>,
}

impl Sum {
    /// Adds the ports one kind of the service's pods allows one kind of the caller's pods.
    pub(super) fn add(&mut self, found: &Found, egress: Egress) {
        self.any.add(&found.allowed);
        self.all = Some(match &self.all {
            Some(all) => all.both(&found.allowed),
            None => found.allowed.clone(),
        });
        // Egress doesn't matter if ingress allows nothing.
        if !found.allowed.now.is_empty() {
            self.egress = Some(match self.egress {
                Some(known) if known != egress => Egress::Partly,
                _ => egress,
            });
        }
        for line in &found.through {
            let same = |known: &&mut Line| {
                (&known.policy, &known.rule, known.staged)
                    == (&line.policy, &line.rule, line.staged)
            };
            match self.through.iter_mut().find(same) {
                Some(known) => known.ports.add(&line.ports),
                None => self.through.push(line.clone()),
            }
        }
    }

    /// Returns the caller's row; `None` if it has no access beyond that of any address.
    pub(super) fn row(self, kind: CallerKind, caller: String, anybody: &Allowed) -> Option<Caller> {
        if self.any.is_within(anybody) {
            return None;
        }
        let through = self.through.into_iter().map(|line| Through {
            policy: line.policy,
            rule: line.rule,
            ports: line.ports.ranges_text(),
            staged: line.staged,
        });
        Some(Caller {
            kind,
            caller,
            ports: self.any.now.ranges_text(),
            once_enforced: self.any.enforced.ranges_text(),
            partly: self.all != Some(self.any),
            egress: self.egress.unwrap_or(Egress::None),
            through: through.collect(),
        })
    }
}
