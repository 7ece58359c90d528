//! An index that follows a server, as the agent's does.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence::kubernetes::pace::Pace;
use ringfence::kubernetes::watch::Follow;
use ringfence::kubernetes::{Access, Barrier, Board, Inbox, Kind, inbox};
use ringfence_api::WatchStatus;
use ringfence_policy::config::Config;
use ringfence_policy::index::{Index, Scope};
use ringfence_policy::model::{Object, Parsed};
use ringfence_policy::tables::Tables;
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::random::NODE;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How long an expected change may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Faults follow each other quickly in tests.
pub(crate) const PACE: Pace = Pace {
    watch: Duration::from_secs(120),
    stall: Duration::from_secs(2),
    recheck: Duration::from_millis(200),
    certain: Duration::from_secs(3),
    backoff: [Duration::from_millis(20), Duration::from_millis(100)],
    unreached: Duration::from_millis(100),
};

/// A server, and the state that one agent has of it.
pub(crate) struct Mirror {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) index: Index,
    pub(crate) inbox: Inbox,
    pub(crate) board: Board,
    pub(crate) barrier: Arc<Barrier>,
    folder: TempDir,
    _watches: JoinSet<()>,
}

impl Mirror {
    /// Follows a server; nothing is known yet.
    pub(crate) fn new(server: impl Into<Arc<ApiServer>>) -> Self {
        Self::by(server, |_| {})
    }

    /// Does the same through an edited kubeconfig.
    pub(crate) fn by(server: impl Into<Arc<ApiServer>>, edit: impl Fn(&mut Value)) -> Self {
        Self::at(PACE, server, edit)
    }

    /// Does the same at another pace.
    pub(crate) fn at(
        pace: Pace,
        server: impl Into<Arc<ApiServer>>,
        edit: impl Fn(&mut Value),
    ) -> Self {
        let server = server.into();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        server.write_kubeconfig(&kubeconfig).unwrap();
        let mut said = serde_json::from_slice(&fs::read(&kubeconfig).unwrap()).unwrap();
        edit(&mut said);
        fs::write(&kubeconfig, said.to_string()).unwrap();
        let access = Access {
            kubeconfig: Some(kubeconfig),
        };
        let board = Board::default();
        let (outbox, inbox) = inbox::queue(board.clone(), Arc::new(Notify::new()));
        let mut watches = JoinSet::new();
        let (barrier, asks) = Barrier::new(access.clone());
        for (kind, asked) in asks {
            let (access, outbox) = (access.clone(), outbox.clone());
            let (config, health) = (Config::default(), board.of(kind));
            let follow = Follow::new(kind, access, config, outbox, health, asked, pace);
            watches.spawn(follow.run());
        }
        Self {
            server,
            index: Index::new(Config::default()),
            inbox,
            board,
            barrier: Arc::new(barrier),
            folder,
            _watches: watches,
        }
    }

    /// Follows a server with these objects, and waits until all are known.
    pub(crate) async fn with(objects: &[&str]) -> Self {
        let server = ApiServer::start().unwrap();
        for object in objects {
            server.apply(object).unwrap();
        }
        let mut mirror = Self::new(server);
        mirror.agrees("at first").await;
        mirror
    }

    /// Returns another agent's mirror of the same server.
    pub(crate) fn beside(&self) -> Self {
        Self::new(Arc::clone(&self.server))
    }

    /// Writes the current token to the file that the watches read.
    pub(crate) fn hand_out_token(&self) {
        let file = self.folder.path().join("kubeconfig");
        self.server.write_kubeconfig(&file).unwrap();
    }

    /// Applies all events received so far.
    pub(crate) fn drain(&mut self) {
        self.inbox.drain(&mut self.index);
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        loop {
            self.drain();
            if holds(self) {
                return;
            }
            let rows = self.board.rows();
            assert!(start.elapsed() < PATIENCE, "not in time: {what}; {rows:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything is known, and compiles to the same tables as a list from scratch.
    pub(crate) async fn agrees(&mut self, when: &str) {
        let what = format!("the same as from scratch, {when}");
        self.until(&what, |mirror| {
            mirror.inbox.waits_for().is_empty() && mirror.tables() == mirror.scratch()
        })
        .await;
    }

    /// Waits for the same, and until every watch is connected again.
    pub(crate) async fn recovers(&mut self, when: &str) {
        self.agrees(when).await;
        let connected = |mirror: &mut Self| mirror.board.is_connected();
        self.until("all watches connected", connected).await;
        self.agrees(when).await;
    }

    /// Asserts that nothing changes for a while.
    pub(crate) async fn stays(&mut self, before: &Tables) {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.drain();
            assert_eq!(&self.tables(), before);
        }
    }

    /// Returns the tables compiled from the known state.
    pub(crate) fn tables(&self) -> Tables {
        self.index.compile(&Scope::Node(NODE.into()))
    }

    /// Returns the tables compiled from scratch from the server's objects.
    pub(crate) fn scratch(&self) -> Tables {
        let mut index = Index::new(Config::default());
        for kind in Kind::ALL {
            for object in self.server.all(kind.plural()) {
                apply(&mut index, object);
            }
        }
        index.compile(&Scope::Node(NODE.into()))
    }

    /// Returns the status row of a kind's watch.
    pub(crate) fn row(&self, kind: Kind) -> WatchStatus {
        self.board.of(kind).status()
    }
}

fn apply(index: &mut Index, object: Value) {
    match Object::from_value(object) {
        Ok(Parsed::Object(object)) => index.apply(*object),
        Ok(Parsed::Ignored) => {}
        Err(error) => drop(index.apply_closed(&error)),
    }
}

/// A Namespace `shop` that isolates its pods, on the node under test.
pub(crate) const SHOP: &str = "
kind: Namespace
apiVersion: v1
metadata: { name: shop, labels: { ringfence.dev/ingress: enforce } }
---
kind: Node
apiVersion: v1
metadata: { name: node-a }
status: { addresses: [{ type: InternalIP, address: 192.0.2.1 }] }
";

/// Returns a pod of `shop` on the node under test.
pub(crate) fn pod(name: &str, number: u8) -> String {
    format!(
        "kind: Pod\napiVersion: v1\nmetadata: {{ name: {name}, namespace: shop, labels: {{ app: {name} }} }}\n\
         spec: {{ nodeName: node-a, containers: [{{ ports: [{{ containerPort: 80 }}] }}] }}\n\
         status: {{ phase: Running, podIP: 10.0.0.{number} }}\n---\n"
    )
}

/// Returns a policy of `shop` that allows one app to call another.
pub(crate) fn policy(name: &str, to: &str, from: &str) -> String {
    format!(
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ app: {to} }} }}, \
         ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ app: {from} }} }} }}] }}] }}\n---\n"
    )
}

/// Returns the shop with two pods, of which one may call the other.
pub(crate) async fn shop() -> Mirror {
    Mirror::with(&[SHOP, &pod("a", 1), &pod("b", 2), &policy("p", "a", "b")]).await
}
