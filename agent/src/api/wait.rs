//! Answers whether a pod's policy, or a policy on this node's pods, is in force, once it is or the
//! time is over. The reference is what the source had accepted when the request came.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use ringfence_api::{InForce, PolicyInForce};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::kubernetes::barrier::Told;
use crate::questions::PolicyName;
use crate::state::Shared;

/// The longest wait, whatever the request asks for.
const LONGEST: Duration = Duration::from_secs(60);
/// The least time that the API server gets, even if the caller wants an answer at once.
const SHORTEST: Duration = Duration::from_secs(2);
/// Pause before another attempt if the server can't be reached.
const ASK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
pub(super) struct Pod {
    pod: String,
    #[serde(default)]
    milliseconds: u64,
}

#[derive(Deserialize)]
pub(super) struct Policy {
    policy: String,
    /// A resource version that the API server has shown; if absent, the server is asked.
    version: Option<u64>,
    #[serde(default)]
    milliseconds: u64,
}

/// Answers `/v1/wait`.
pub(super) async fn pod(
    State(shared): State<Arc<Shared>>,
    Query(Pod { pod, milliseconds }): Query<Pod>,
) -> Json<InForce> {
    let deadline = deadline(milliseconds);
    if let Err(reason) = reached(&shared, deadline).await {
        return Json(InForce::not(format!("not certain: {reason}")));
    }
    let mut passes = shared.passes();
    shared.pass().await;
    passes.mark_unchanged();
    loop {
        let (of, pod) = (Arc::clone(&shared), pod.clone());
        let judged = tokio::task::spawn_blocking(move || in_force(&of, &pod)).await;
        let answer = judged.unwrap_or_else(|error| InForce::not(error.to_string()));
        if answer.in_force || is_over(&mut passes, deadline).await {
            return Json(answer);
        }
    }
}

/// Answers `/v1/policy`.
pub(super) async fn policy(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Policy>,
) -> Json<PolicyInForce> {
    let deadline = deadline(asked.milliseconds);
    let policy: PolicyName = match asked.policy.parse() {
        Ok(policy) => policy,
        Err(error) => return Json(PolicyInForce::not(error)),
    };
    if let Err(reason) = shown(&shared, &policy, asked.version, deadline).await {
        return Json(PolicyInForce::not(format!("not certain: {reason}")));
    }
    let mut passes = shared.passes();
    loop {
        let answered = shared.questions.ask(policy.clone());
        shared.pass().await;
        let answer = answered.await;
        let answer = answer.unwrap_or_else(|_| PolicyInForce::not("the agent is stopping"));
        passes.mark_unchanged();
        if answer.in_force || is_over(&mut passes, deadline).await {
            return Json(answer);
        }
    }
}

fn deadline(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds).min(LONGEST)
}

/// Waits for another pass; returns whether the time ran out first.
async fn is_over(passes: &mut watch::Receiver<u64>, deadline: Instant) -> bool {
    tokio::select! {
        changed = passes.changed() => changed.is_err(),
        () = sleep_until(deadline) => true,
    }
}

/// Returns once the source has delivered everything that it had accepted by now.
async fn reached(shared: &Shared, deadline: Instant) -> Result<(), String> {
    let Some(barrier) = &shared.barrier else {
        return Ok(());
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match barrier.reached(left.max(SHORTEST)).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() + ASK_AGAIN >= deadline {
            return Err(error);
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Returns once the source has delivered a policy in the version that it had accepted by now.
async fn shown(
    shared: &Shared,
    policy: &PolicyName,
    version: Option<u64>,
    deadline: Instant,
) -> Result<(), String> {
    let Some(barrier) = &shared.barrier else {
        return Ok(());
    };
    let kind = policy.kind();
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = left.max(SHORTEST);
    match version {
        Some(version) => {
            let told = Told::Object(policy.namespace.clone(), policy.name.clone(), version);
            barrier.has(kind, told, limit).await
        }
        None => barrier.reached_kind(kind, limit).await,
    }
}

fn in_force(shared: &Shared, pod: &str) -> InForce {
    let status = shared.status();
    let guarded = shared
        .dataplane()
        .endpoints()
        .iter()
        .any(|endpoint| endpoint.attached && endpoint.is_of(pod));
    let unguarded = || {
        let mut others = status.not_guarded();
        let found = others.find(|unguarded| unguarded.pod == pod);
        found.map_or_else(
            || format!("node {} has no such pod", status.node),
            |unguarded| unguarded.reason.clone(),
        )
    };
    let waits = (!status.waits_for.is_empty())
        .then(|| format!("not known yet: {}", status.waits_for.join(", ")));
    let reason = status.error.clone().or(waits);
    let reason = reason.or_else(|| (!guarded).then(unguarded));
    InForce {
        in_force: reason.is_none(),
        reason,
        generation: status.generation,
        invalid: status.invalid,
    }
}
