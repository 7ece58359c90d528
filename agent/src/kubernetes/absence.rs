//! Whether a kind that was there is gone: its definition was deleted while nobody watched.
//!
//! A 404 alone says little. A server that has just started may not have read its definitions
//! yet, and something else may answer in its place. So the server is asked what it serves: it
//! has to know its core, and not to know the kind, for a while.

use kube::Client;
use tokio::time::Instant;

use super::Kind;

/// What is known of a kind's absence.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Since when the server says so each time.
    since: Option<Instant>,
}

impl Absence {
    /// Asks the server; for how long it has said now that it has no such kind.
    pub(super) async fn ask(&mut self, client: &Client, kind: Kind) -> Option<std::time::Duration> {
        match is_denied(client, kind).await {
            true => Some(self.since.get_or_insert_with(Instant::now).elapsed()),
            false => {
                self.since = None;
                None
            }
        }
    }

    /// It is there.
    pub(super) fn is_over(&mut self) {
        self.since = None;
    }
}

async fn is_denied(client: &Client, kind: Kind) -> bool {
    let core = client.list_core_api_resources("v1").await;
    let knows_core = core.is_ok_and(|list| list.resources.iter().any(|one| one.name == "pods"));
    if !knows_core {
        return false;
    }
    match client.list_api_group_resources(&kind.api_version()).await {
        Ok(list) => list.resources.iter().all(|one| one.name != kind.plural()),
        Err(kube::Error::Api(status)) => status.code == 404,
        Err(_) => false,
    }
}
