//! Answers to questions about the next pass.

use ringfence_api::PolicyInForce;
use ringfence_policy::index::{PodKey, Standing};

use super::Engine;
use crate::questions::PolicyName;

impl Engine {
    /// Answers all questions that were asked before this pass started.
    pub(super) fn answer(&mut self, error: Option<&str>, generation: u64) {
        for question in std::mem::take(&mut self.asked) {
            let state = self.policy_in_force(&question.policy, error, generation);
            // The receiver may be gone.
            let _ = question.answer.send(state);
        }
    }

    fn policy_in_force(
        &self,
        policy: &PolicyName,
        error: Option<&str>,
        generation: u64,
    ) -> PolicyInForce {
        let PolicyName { namespace, name } = policy;
        let held_back = match self.index.standing(namespace, name) {
            Standing::Unknown => Some("there is no such policy".to_owned()),
            Standing::HeldBack(why) => Some(why),
            Standing::Effective => None,
        };
        let wanted = self.compiled.iter().flat_map(|compiled| &compiled.wanted);
        let selected = |pod: &PodKey| {
            let entry = self.index.pod(&pod.namespace, &pod.name);
            entry.is_some_and(|entry| self.index.is_selected(namespace, name, entry))
        };
        let selected: Vec<&PodKey> = wanted
            .map(|one| &one.pod)
            .filter(|pod| selected(pod))
            .collect();
        let reason = held_back
            .or_else(|| error.map(str::to_owned))
            .or_else(|| self.unguarded_one(&selected));
        PolicyInForce {
            in_force: reason.is_none(),
            pods: selected.len(),
            reason,
            generation,
        }
    }

    /// Returns the first of these pods that isn't guarded by its policy, and why.
    fn unguarded_one(&self, pods: &[&PodKey]) -> Option<String> {
        let unguarded = self.unguarded().find(|one| pods.contains(&&one.pod));
        let unguarded = unguarded.map(|one| format!("{}: {}", one.pod, one.reason));
        let closed = || {
            let closed = self.closed.iter().find(|pod| pods.contains(pod));
            closed.map(|pod| format!("{pod}: closed until its policy can be written"))
        };
        unguarded.or_else(closed)
    }
}
