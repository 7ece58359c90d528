//! A Kubernetes API server for tests, with faults on order.
//!
//! Real HTTP and TLS on a listener of the test's choice, from a thread of its
//! own. It holds the kinds that the agent reads (and Events, which it may write),
//! as JSON, and answers as a real one does: resource versions, pages, watches,
//! bookmarks, streaming lists, bearer tokens, label selectors of lists (those of
//! equality), commands in pods ([`ApiServer::on_exec`]). There are no field selectors.
//! Objects come from manifests, from calls here, and from POST, PUT and DELETE over HTTP.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use ringfence_tests::apiserver::{ApiServer, Fault};
//! let server = ApiServer::start()?;
//! server.apply("kind: Namespace\napiVersion: v1\nmetadata: { name: shop }")?;
//! server.write_kubeconfig("/tmp/kubeconfig".as_ref())?;
//! server.inject("pods", Fault::ResetMidEvent, 1);
//! server.delete("namespaces", "", "shop")?;
//! assert!(server.requests().contains(&("list".into(), "pods".into())));
//! # Ok(()) }
//! ```

mod credentials;
mod exec;
mod fault;
mod http;
mod list;
mod resources;
mod selector;
mod store;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::sync::{Notify, watch as signal};

use credentials::Identity;
use exec::Program;
use fault::Faults;
use resources::Resource;
use store::Store;

pub use exec::Exec;
pub use fault::Fault;

/// How long what was said before a connection breaks takes to be on its way.
const FLUSH: std::time::Duration = std::time::Duration::from_millis(20);

/// An API server that runs until it is dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    identity: Identity,
    stop: Arc<Notify>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiServer at {}", self.address)
    }
}

/// What its connections share.
struct Shared {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    tokens: Mutex<BTreeSet<String>>,
    /// Each (verb, resource) that was asked for, and how often.
    asked: Mutex<BTreeMap<(String, String), u64>>,
    streaming: AtomicBool,
    cluster_policies: AtomicBool,
    /// Something was written, or a fault came or went: watches look again.
    changed: signal::Sender<()>,
    /// Every open watch ends when this rises.
    cut: AtomicU64,
    watches: AtomicU64,
    /// What runs in pods, once a test has said it.
    program: Mutex<Option<Arc<Program>>>,
}

impl ApiServer {
    /// A server on a free port of this namespace's loopback device.
    pub fn start() -> Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0")?)
    }

    /// A server on this listener, which may live in another network namespace.
    pub fn on(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let identity = Identity::new(address.ip())?;
        let shared = Arc::new(Shared::new());
        let stop = Arc::new(Notify::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let serve = http::serve(
            listener,
            identity.acceptor()?,
            Arc::clone(&shared),
            Arc::clone(&stop),
        );
        let thread = std::thread::Builder::new()
            .name("apiserver".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve) {
                    eprintln!("the API server ended: {error:#}");
                }
                // Watches that are stuck on purpose mustn't hold it up.
                runtime.shutdown_background();
            })?;
        let server = Self {
            shared,
            address,
            identity,
            stop,
            thread: Mutex::new(Some(thread)),
        };
        server.new_token();
        Ok(server)
    }

    /// `https://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of its authority, as PEM.
    pub fn ca_pem(&self) -> &str {
        self.identity.ca_pem()
    }

    /// Ends it: connections break, and nobody answers any more.
    pub fn stop(&self) {
        self.stop.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    /// Creates or replaces the objects of YAML documents, Lists among them.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        for object in store::read_yaml(yaml)? {
            self.apply_value(object)?;
        }
        Ok(())
    }

    /// Creates or replaces every object of a folder's `*.yaml` files.
    pub fn apply_dir(&self, folder: &Path) -> Result<()> {
        let mut files: Vec<_> = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            self.apply(&text)
                .with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Creates or replaces one object; returns its resource version. Nothing but
    /// its kind and name is checked: it may be one that no reader can parse.
    pub fn apply_value(&self, object: Value) -> Result<u64> {
        let version = lock(&self.shared.store).put(object)?;
        self.shared.wake();
        Ok(version)
    }

    /// Deletes an object by resource (`pods`), namespace (empty if it has none)
    /// and name; an error if there is none.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<()> {
        let resource = resources::named(resource).context("no such resource")?;
        let gone = lock(&self.shared.store).remove(resource, namespace, name);
        self.shared.wake();
        let what = || format!("no {} {namespace}/{name}", resource.plural);
        gone.with_context(what).map(drop)
    }

    /// One object as it is now, with its resource version.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        lock(&self.shared.store).get(resources::named(resource)?, namespace, name)
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        resources::named(resource).map_or_else(Vec::new, |r| lock(&self.shared.store).all(r))
    }

    /// Makes a fault strike the next `times` chances that a resource (`pods`, or
    /// `*` for each) gives it; `usize::MAX` for all until [`ApiServer::heal`]. Of
    /// `pods/exec` it may be a [`Fault::Answer`].
    pub fn inject(&self, resource: &str, fault: Fault, times: usize) {
        lock(&self.shared.faults).add(resource, fault, times);
        self.shared.wake();
    }

    /// Takes all faults away. A watch that [`Fault::Silence`] has hit stays silent until it is
    /// cut.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
        self.shared.wake();
    }

    /// How often faults have struck so far.
    pub fn struck(&self) -> u64 {
        lock(&self.shared.faults).struck
    }

    /// Forgets all history: a watch from an older resource version and the rest of
    /// a list are Gone.
    pub fn compact(&self) {
        lock(&self.shared.store).compact();
    }

    /// Breaks every open watch off, as a server that restarts does.
    pub fn cut_watches(&self) {
        self.shared.cut.fetch_add(1, Ordering::SeqCst);
        self.shared.wake();
    }

    /// Watches that are open now.
    pub fn open_watches(&self) -> u64 {
        self.shared.watches.load(Ordering::SeqCst)
    }

    /// Whether it knows streaming lists, as servers do from 1.32 on; it does. One
    /// that doesn't answers 422, as they do from 1.16 on.
    pub fn set_streaming_lists(&self, on: bool) {
        self.shared.streaming.store(on, Ordering::SeqCst);
    }

    /// Whether it has ClusterNetworkPolicies; it does. Without, their group is 404.
    pub fn set_cluster_policies(&self, on: bool) {
        self.shared.cluster_policies.store(on, Ordering::SeqCst);
    }

    /// Every (verb, resource) asked for since the start: `list`, `watch`, `get`,
    /// `create`, `update`, `delete`. Resources of other groups than the core's are
    /// written `networkpolicies.networking.k8s.io`. A command in a pod is `get` and
    /// `create` of `pods/exec`.
    pub fn requests(&self) -> BTreeSet<(String, String)> {
        lock(&self.shared.asked).keys().cloned().collect()
    }

    /// How often a verb was asked of a resource.
    pub fn count(&self, verb: &str, resource: &str) -> u64 {
        let asked = lock(&self.shared.asked);
        let key = (verb.to_owned(), resource.to_owned());
        asked.get(&key).copied().unwrap_or_default()
    }

    /// Makes a new token, the only one that counts from now on: others get 401.
    /// Open watches stay, as they do on a real server.
    pub fn new_token(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let token = format!("token-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        *lock(&self.shared.tokens) = [token.clone()].into();
        token
    }

    /// The token that counts now.
    pub fn token(&self) -> String {
        let tokens = lock(&self.shared.tokens);
        tokens.first().cloned().unwrap_or_default()
    }

    /// Writes a kubeconfig with the present token into it.
    pub fn write_kubeconfig(&self, file: &Path) -> Result<()> {
        credentials::write_kubeconfig(file, &self.url(), self.ca_pem(), &self.token())
    }

    /// Writes `token`, `ca.crt` and `namespace` into a folder, as they are mounted
    /// into a pod. [`ApiServer::env`] goes with it.
    pub fn write_service_account(&self, folder: &Path) -> Result<()> {
        credentials::write_service_account(folder, self.ca_pem(), &self.token())
    }

    /// The variables that every container has to find the server by.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("KUBERNETES_SERVICE_HOST", self.address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", self.address.port().to_string()),
        ]
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            store: Mutex::new(Store::new()),
            faults: Mutex::default(),
            tokens: Mutex::default(),
            asked: Mutex::default(),
            streaming: AtomicBool::new(true),
            cluster_policies: AtomicBool::new(true),
            changed: signal::Sender::new(()),
            cut: AtomicU64::new(0),
            watches: AtomicU64::new(0),
            program: Mutex::default(),
        }
    }

    fn wake(&self) {
        self.changed.send_replace(());
    }

    /// Notes that a verb was asked of a resource.
    fn note(&self, verb: &str, resource: &str) {
        let key = (verb.to_owned(), resource.to_owned());
        *lock(&self.asked).entry(key).or_default() += 1;
    }

    /// A fault that strikes now, if one of those that `fits` is ordered.
    fn strike(&self, resource: &Resource, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        lock(&self.faults).strike(resource.plural, fits)
    }
}

/// A test that panicked elsewhere leaves plain data behind.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
