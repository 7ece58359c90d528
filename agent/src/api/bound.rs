//! The network plugin's question about a pod that is about to start and waits for its policy.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use ringfence_api::Bound;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::state::Shared;

/// The longest wait, whatever the request asks for.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
pub(super) struct Asked {
    pod: String,
    device: u32,
    milliseconds: u64,
}

/// Starts a pass at once, and answers after that pass or a later one.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<Asked>,
) -> Json<Bound> {
    let limit = Duration::from_millis(asked.milliseconds).min(LONGEST);
    let deadline = Instant::now() + limit;
    let mut passes = shared.passes();
    shared.recorded.notify_one();
    let mut in_force = false;
    while !in_force {
        // The sender lives in `shared`, so only the timeout can end this.
        if timeout_at(deadline, passes.changed()).await.is_err() {
            break;
        }
        let (shared, pod) = (Arc::clone(&shared), asked.pod.clone());
        let judged = tokio::task::spawn_blocking(move || is_bound(&shared, &pod, asked.device));
        in_force = judged.await.unwrap_or(false);
    }
    Json(Bound { in_force })
}

/// Reports whether the device belongs to the pod, is guarded, and has the pod's own policy.
fn is_bound(shared: &Shared, pod: &str, device: u32) -> bool {
    let endpoints = shared.dataplane().endpoints();
    let is_placed = endpoints
        .iter()
        .any(|one| one.ifindex == device && one.attached && one.is_of(pod));
    let status = shared.status();
    is_placed && status.waits_for.is_empty() && !status.closed.iter().any(|closed| closed == pod)
}
