//! A pod that is about to start waits for its policy: the network plugin's question.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::state::Shared;

/// Nobody waits for longer, whatever was asked for.
const LONGEST: Duration = Duration::from_secs(60);

/// Whether a pod's policy is in force on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bound {
    /// It is.
    pub in_force: bool,
}

#[derive(Deserialize)]
pub(super) struct Asked {
    pod: String,
    device: u32,
    milliseconds: u64,
}

/// Makes a pass at once, and answers after it, or after a later one.
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
        // The sender lives in `shared`, so that only the time can end this.
        if timeout_at(deadline, passes.changed()).await.is_err() {
            break;
        }
        let (shared, pod) = (Arc::clone(&shared), asked.pod.clone());
        let judged = tokio::task::spawn_blocking(move || is_bound(&shared, &pod, asked.device));
        in_force = judged.await.unwrap_or(false);
    }
    Json(Bound { in_force })
}

/// Whether the device is the pod's, guarded, and has the pod's own policy.
fn is_bound(shared: &Shared, pod: &str, device: u32) -> bool {
    let endpoints = shared.kernel().endpoints();
    let is_seated = endpoints
        .iter()
        .any(|one| one.ifindex == device && one.attached && one.is_of(pod));
    let status = shared.status();
    is_seated && status.waits_for.is_empty() && !status.closed.iter().any(|closed| closed == pod)
}
