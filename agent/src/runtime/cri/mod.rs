//! The sandboxes of a container runtime, asked over its socket (CRI). Optional, since access to
//! that socket amounts to root on the node.

pub mod messages;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::{FoundBy, Sandbox};
use messages::{
    Filter, Item, ListRequest, ListResponse, ON_NODE, READY, StateValue, StatusRequest,
    StatusResponse,
};

/// How long an answer may take. A pass waits for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a runtime that didn't answer isn't asked again.
const REST: Duration = Duration::from_secs(15);

/// A runtime and its known sandboxes.
#[derive(Debug)]
pub struct Cri {
    socket: PathBuf,
    /// Sandboxes by id; none for a pod on the host network.
    known: BTreeMap<String, Option<Sandbox>>,
    /// When it may be asked again.
    rests_until: Option<Instant>,
}

impl Cri {
    /// Creates a client for the runtime behind a socket, which needn't exist yet.
    pub const fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            known: BTreeMap::new(),
            rests_until: None,
        }
    }

    /// Returns the sandboxes of the last answer.
    pub fn sandboxes(&self) -> impl Iterator<Item = &Sandbox> {
        self.known.values().flatten()
    }

    /// Asks which sandboxes are ready, and for details of new ones. Blocks for two seconds at
    /// most. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Fails if the runtime doesn't answer: its last answer stays valid, and it isn't asked again
    /// for a while.
    pub fn look(&mut self) -> Result<()> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            anyhow::bail!("{}: doesn't answer", self.name());
        }
        let asked = Handle::try_current()
            .context("no tokio runtime")
            .and_then(|handle| handle.block_on(self.ask()))
            .with_context(|| self.name());
        self.rests_until = asked.is_err().then(|| Instant::now() + REST);
        asked
    }

    fn name(&self) -> String {
        format!("--cri-socket {}", self.socket.display())
    }

    async fn ask(&mut self) -> Result<()> {
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut client = Client::connect(&self.socket).await?;
            let ready = Filter {
                state: Some(StateValue { state: READY }),
            };
            let request = ListRequest {
                filter: Some(ready),
            };
            let list: ListResponse = client.call("ListPodSandbox", request).await?;
            let mut now = BTreeMap::new();
            for item in list.items {
                let known = match self.known.get(&item.id) {
                    Some(known) => known.clone(),
                    None => {
                        let request = StatusRequest {
                            id: item.id.clone(),
                            verbose: true,
                        };
                        let status: Result<StatusResponse> =
                            client.call("PodSandboxStatus", request).await;
                        match status {
                            Ok(status) => sandbox(&item, &status),
                            // It is gone by now, or will be asked for again.
                            Err(_) => continue,
                        }
                    }
                };
                now.insert(item.id, known);
            }
            anyhow::Ok(now)
        });
        self.known = asked.await.context("no answer in time")??;
        Ok(())
    }
}

/// A client of a runtime's socket.
#[derive(Debug)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Fails if no server answers at the socket.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        // The address isn't used: the connector has the path of the socket.
        let endpoint = Endpoint::from_static("http://runtime");
        let channel = endpoint
            .connect_with_connector(tower::service_fn(connect))
            .await?;
        Ok(Self(Grpc::new(channel)))
    }

    /// Calls a method of `runtime.v1.RuntimeService`.
    ///
    /// # Errors
    /// Returns the runtime's error.
    pub async fn call<Q, A>(&mut self, method: &str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        self.0.ready().await?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let answer = self.0.unary(tonic::Request::new(request), path, codec);
        let answer = answer.await.with_context(|| method.to_owned())?;
        Ok(answer.into_inner())
    }
}

/// The additional information that containerd and CRI-O keep for a sandbox, as far as needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    runtime_spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    linux: Linux,
}

#[derive(Deserialize)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: PathBuf,
}

/// Converts a sandbox; returns none if it is on the host network or belongs to no pod.
fn sandbox(item: &Item, answer: &StatusResponse) -> Option<Sandbox> {
    let metadata = item.metadata.as_ref()?;
    let status = answer.status.as_ref()?;
    let options = status
        .linux
        .as_ref()
        .and_then(|linux| linux.namespaces.as_ref());
    let options = options.and_then(|namespaces| namespaces.options.as_ref());
    if options.is_some_and(|options| options.network == ON_NODE) {
        return None;
    }
    let info = answer.info.get("info");
    let info: Option<Info> = info.and_then(|text| serde_json::from_str(text).ok());
    let namespaces = info
        .into_iter()
        .flat_map(|info| info.runtime_spec.linux.namespaces);
    let mut network = namespaces.filter(|one| one.kind == "network");
    let netns = network.next().map(|one| one.path);
    let network = status.network.as_ref();
    let addresses = network.into_iter().flat_map(|network| {
        let others = network.additional_ips.iter().map(|other| &other.ip);
        std::iter::once(&network.ip).chain(others)
    });
    let since = Duration::from_nanos(u64::try_from(item.created_at).unwrap_or(0));
    Some(Sandbox {
        id: item.id.clone(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: (!metadata.uid.is_empty()).then(|| metadata.uid.clone()),
        netns: netns.filter(|path| !path.as_os_str().is_empty()),
        devices: Vec::new(),
        others: Vec::new(),
        mac: None,
        addresses: addresses
            .filter_map(|ip| ip.parse::<IpAddr>().ok())
            .collect(),
        recorded: SystemTime::UNIX_EPOCH + since,
        by: FoundBy::Cri,
        open: false,
    })
}

#[cfg(test)]
#[path = "cri_tests.rs"]
mod tests;
