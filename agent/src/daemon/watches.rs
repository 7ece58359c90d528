//! The watches of the API server, and their barrier.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::failure::Failure;
use crate::kubernetes::barrier::Asks;
use crate::kubernetes::pace::Pace;
use crate::kubernetes::watch::Follow;
use crate::kubernetes::{Access, Barrier, Board, Outbox, emit, inbox};
use crate::settings::{Origin, Settings};
use crate::source::Source;
use crate::state::Shared;

/// The watches of the API server, if that is the source of policy; empty otherwise.
#[derive(Default)]
pub(super) struct Watches {
    /// Notified when the watches have something to report.
    pub(super) told: Arc<Notify>,
    server: Option<Server>,
}

struct Server {
    /// How the watches connect and authenticate to the server.
    access: Access,
    /// Status of the watches.
    board: Board,
    /// Where the watches put what they receive.
    outbox: Outbox,
    /// Asks the watches what they have delivered.
    barrier: Arc<Barrier>,
    asks: Asks,
}

/// Opens the source of policy, and what watches it.
///
/// # Errors
/// Fails if the source can't be read, or there are no credentials.
pub(super) fn open(
    settings: &Settings,
    runtime: &tokio::runtime::Runtime,
) -> Result<(Source, Watches), Failure> {
    let mut watches = Watches::default();
    let source = match &settings.origin {
        Origin::Manifests(folder) => Source::manifests(folder).map_err(Failure::input)?,
        Origin::Kubernetes(access) => {
            // A kubeconfig that can't be read at the start is rejected; later it may disappear and
            // return.
            runtime.block_on(access.client()).map_err(Failure::input)?;
            let board = Board::default();
            let (outbox, inbox) = inbox::queue(board.clone(), Arc::clone(&watches.told));
            let (barrier, asks) = Barrier::new(access.clone());
            watches.server = Some(Server {
                access: access.clone(),
                board,
                outbox,
                barrier: Arc::new(barrier),
                asks,
            });
            Source::Kubernetes(inbox)
        }
    };
    Ok((source, watches))
}

impl Watches {
    pub(super) fn board(&self) -> Option<Board> {
        self.server.as_ref().map(|server| server.board.clone())
    }

    pub(super) fn barrier(&self) -> Option<Arc<Barrier>> {
        let server = self.server.as_ref();
        server.map(|server| Arc::clone(&server.barrier))
    }

    /// Starts watching every kind, and writing Events if requested.
    pub(super) fn start(&mut self, settings: &Settings, shared: &Shared) {
        let Some(server) = &mut self.server else {
            return;
        };
        let access = &server.access;
        for (kind, asked) in std::mem::take(&mut server.asks) {
            let (access, config) = (access.clone(), settings.config.clone());
            let (outbox, health) = (server.outbox.clone(), server.board.of(kind));
            let watch = Follow::new(kind, access, config, outbox, health, asked, Pace::default());
            tokio::spawn(watch.run());
        }
        if let Some(emitter) = &shared.emitter {
            let (emitter, node) = (Arc::clone(emitter), settings.node_name.clone());
            tokio::spawn(emit::run(emitter, access.clone(), node));
        }
    }
}
