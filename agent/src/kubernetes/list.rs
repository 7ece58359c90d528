//! Lists everything once, for a command-line question.

use std::sync::Arc;

use kube::api::ListParams;
use kube::{Api, Client};
use ringfence_policy::config::Config;
use ringfence_policy::index::Index;
use tokio::sync::Notify;

use super::credentials::AccessError;
use super::inbox::{self, Inbox};
use super::seen::Seen;
use super::{Access, Board, Kind};

/// Objects per page, as in kubectl.
const PAGE: u32 = 500;

/// Why a cluster couldn't be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// There are no usable credentials.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A list failed.
    #[error("listing {kind}s: {source}")]
    List {
        /// The kind that was listed.
        kind: Kind,
        /// The cause.
        source: kube::Error,
    },
    /// The async runtime couldn't be started.
    #[error("starting the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Reads a cluster into an index. Objects that don't parse are reported on stderr, and treated as
/// closed, as by an agent that has just started.
pub fn index(access: &Access, config: &Config) -> Result<Index, ListError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ListError::Runtime)?;
    runtime.block_on(async {
        let client = access.client().await?;
        let mut index = Index::new(config.clone());
        let (_, mut inbox) = inbox::queue(Board::default(), Arc::new(Notify::new()));
        for kind in Kind::ALL {
            let listed = list(&client, kind, &mut inbox, &mut index).await;
            match listed {
                Err(kube::Error::Api(status)) if kind.is_optional() && status.code == 404 => {}
                other => other.map_err(|source| ListError::List { kind, source })?,
            }
        }
        for line in inbox.invalid() {
            eprintln!("ringfence: {line}; treated as closed");
        }
        Ok(index)
    })
}

async fn list(
    client: &Client,
    kind: Kind,
    inbox: &mut Inbox,
    index: &mut Index,
) -> kube::Result<()> {
    let api: Api<Seen> = Api::all_with(client.clone(), &kind);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        for seen in &list.items {
            let what = seen.what(kind, index.config());
            inbox.take(kind, what, index);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}
