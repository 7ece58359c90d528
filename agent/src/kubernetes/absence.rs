//! Detects that a kind is gone whose definition was deleted while nobody watched.
//!
//! A 404 alone proves little: a server that has just started may not have read its definitions yet,
//! and something else may answer in its place. So the server is asked for its resources: for a
//! while, it must list the core ones and not list the kind.

use kube::Client;
use tokio::time::Instant;

use super::Kind;

/// What is known about a kind's absence.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Since when the server has consistently reported the kind as absent.
    since: Option<Instant>,
}

impl Absence {
    /// Asks the server; returns for how long it has reported the kind as absent.
    pub(super) async fn ask(&mut self, client: &Client, kind: Kind) -> Option<std::time::Duration> {
        match is_denied(client, kind).await {
            true => Some(self.since.get_or_insert_with(Instant::now).elapsed()),
            false => {
                self.since = None;
                None
            }
        }
    }

    /// Records that the kind is present.
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
    match client.list_api_group_resources(kind.api_version()).await {
        Ok(list) => list.resources.iter().all(|one| one.name != kind.plural()),
        Err(kube::Error::Api(status)) => status.code == 404,
        Err(_) => false,
    }
}
