//! What `explain`, `callers` and `matrix --diff` found, as the API's types: the only place that
//! converts it. A matrix may be too large for a second form, and is written as it is.

use ringfence_api::offline as api;
use ringfence_policy::callers::{self, Callers};
use ringfence_policy::explain::{self, Explanation, Verdict};
use ringfence_policy::matrix::{Difference, Edge};

/// Converts the explanation of a call.
pub(super) fn explanation(found: &Explanation) -> api::Explanation {
    api::Explanation {
        from: party(&found.from),
        to: party(&found.to),
        port: found.port.to_string(),
        via: found.via.as_ref().map(via),
        note: found.note.clone(),
        verdict: verdict(found.verdict),
        families: found.families.map(|families| families.map(verdict)),
        egress: side(&found.egress),
        ingress: side(&found.ingress),
        fix: found.fix.iter().map(fix).collect(),
        effect: found.effect.as_ref().map(effect),
    }
}

fn party(party: &explain::Party) -> api::Party {
    api::Party {
        kind: match party.kind {
            explain::PartyKind::Pod => api::PartyKind::Pod,
            explain::PartyKind::Node => api::PartyKind::Node,
            explain::PartyKind::Unknown => api::PartyKind::Unknown,
            explain::PartyKind::Outside => api::PartyKind::Outside,
        },
        name: party.name.clone(),
        workload: party.workload.clone(),
        address: party.address,
    }
}

fn via(via: &explain::Via) -> api::Via {
    let backend = |backend: &explain::Backend| api::Backend {
        name: backend.name.clone(),
        port: backend.port.to_string(),
        verdict: verdict(backend.verdict),
    };
    api::Via {
        service: via.service.clone(),
        address: via.address,
        port: via.port.to_string(),
        backends: via.backends.iter().map(backend).collect(),
    }
}

fn verdict(verdict: Verdict) -> api::Verdict {
    match verdict {
        Verdict::Allowed => api::Verdict::Allowed,
        Verdict::Audited => api::Verdict::Audited,
        Verdict::Denied => api::Verdict::Denied,
    }
}

fn side(side: &explain::Side) -> api::Side {
    let isolation = |one: &explain::Isolation| api::Isolation {
        policy: one.policy.clone(),
        why: one.why.clone(),
        staged: one.staged,
    };
    let allowing = |one: &explain::Allowing| api::Allowing {
        policy: one.policy.clone(),
        rule: one.rule.clone(),
        staged: one.staged,
    };
    api::Side {
        direction: side.direction.into(),
        verdict: verdict(side.verdict),
        reason: side.reason.clone(),
        isolated_by: side.isolated_by.iter().map(isolation).collect(),
        allowed_by: side.allowed_by.iter().map(allowing).collect(),
    }
}

fn fix(fix: &explain::Fix) -> api::Fix {
    api::Fix {
        object: fix.object.clone(),
        form: match fix.form {
            explain::Form::Patch => api::Form::Patch,
            explain::Form::Object => api::Form::Object,
        },
        patch: fix.patch.clone(),
        sentence: fix.sentence.clone(),
    }
}

fn effect(effect: &explain::Effect) -> api::Effect {
    let call = |call: &explain::ChangedCall| api::ChangedCall {
        from: call.from.clone(),
        to: call.to.clone(),
        ports: call.ports.clone(),
    };
    let calls = |calls: &explain::Calls| api::Calls {
        count: calls.count,
        calls: calls.calls.iter().map(call).collect(),
    };
    api::Effect {
        opens: calls(&effect.opens),
        closes: calls(&effect.closes),
        partly: effect.partly,
    }
}

/// Converts the callers of a service.
pub(super) fn callers(found: &Callers) -> api::Callers {
    let policy = |name: &callers::PolicyName| api::PolicyName {
        policy: name.policy.clone(),
        staged: name.staged,
    };
    api::Callers {
        service: found.service.clone(),
        pods: found.pods.clone(),
        isolated: found.isolated,
        policies: found.policies.iter().map(policy).collect(),
        callers: found.callers.iter().map(caller).collect(),
    }
}

fn caller(caller: &callers::Caller) -> api::Caller {
    let through = |through: &callers::Through| api::Through {
        policy: through.policy.clone(),
        rule: through.rule.clone(),
        ports: through.ports.clone(),
        staged: through.staged,
    };
    api::Caller {
        kind: match caller.kind {
            callers::CallerKind::Any => api::CallerKind::Any,
            callers::CallerKind::Outside => api::CallerKind::Outside,
            callers::CallerKind::Node => api::CallerKind::Node,
            callers::CallerKind::Block => api::CallerKind::Block,
            callers::CallerKind::Workload => api::CallerKind::Workload,
        },
        caller: caller.caller.clone(),
        ports: caller.ports.clone(),
        once_enforced: caller.once_enforced.clone(),
        partly: caller.partly,
        egress: match caller.egress {
            callers::Egress::Allowed => api::Egress::Allowed,
            callers::Egress::Staged => api::Egress::Staged,
            callers::Egress::Partly => api::Egress::Partly,
            callers::Egress::Denied => api::Egress::Denied,
            callers::Egress::None => api::Egress::None,
        },
        through: caller.through.iter().map(through).collect(),
    }
}

/// Converts what a change opens and closes.
pub(super) fn difference(found: &Difference) -> api::Difference {
    api::Difference {
        ports: found.ports.iter().map(ToString::to_string).collect(),
        opens: found.opens.iter().map(edge).collect(),
        closes: found.closes.iter().map(edge).collect(),
        added: found.added.clone(),
        removed: found.removed.clone(),
    }
}

fn edge(edge: &Edge) -> api::Edge {
    api::Edge {
        from: edge.from.clone(),
        to: edge.to.clone(),
        ports: edge.ports.iter().map(ToString::to_string).collect(),
    }
}
