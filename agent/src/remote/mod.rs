//! Agents of other nodes, asked by `exec` of the same binary in their pods, like the tools of other
//! network plugins: this needs no listener, and permission to exec in the agents' namespace is
//! equivalent to root on the nodes anyway.
//!
//! | module | does |
//! |---|---|
//! | `find` | finds the pod of each node's agent |
//! | `exec` | runs one command in one pod, and returns its output and result |
//! | `follow` | passes on lines of several agents as they arrive |
//! | `error` | why agents can't be found, and why an agent can't be asked |
//!
//! Commands and flags are those that every version of the binary has. A flag that only newer
//! versions know is tried first, and omitted if the answer is a usage error.

mod error;
mod exec;
mod find;
mod follow;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::cli::{Global, NodeArgs};
use crate::kubernetes::Access;

use error::printable;
use find::Target;

pub use error::{Absent, FindError, NodeError};
pub use follow::MOST_FOLLOWED;

/// Number of agents that are asked concurrently.
const AT_ONCE: usize = 16;

/// The agents of the nodes that a command asks.
#[derive(Debug)]
pub struct Fleet {
    pods: Api<Pod>,
    namespace: String,
    /// The value of `--socket`: a path in the agents' pods.
    socket: PathBuf,
    patience: Duration,
    targets: Vec<Target>,
}

impl Fleet {
    /// Finds the agents' pods through the API server.
    ///
    /// # Errors
    /// If there are no credentials, or pods or nodes can't be listed. A node without an agent is no
    /// error here, but asking it is.
    pub async fn find(global: &Global, args: &NodeArgs) -> Result<Self, FindError> {
        let access = Access {
            kubeconfig: args.kubeconfig.clone(),
        };
        let client = access.client().await?;
        let targets = find::targets(&client, args).await?;
        Ok(Self {
            pods: Api::namespaced(client, &args.agent_namespace),
            namespace: args.agent_namespace.clone(),
            socket: global.socket.clone(),
            patience: Duration::from_secs(args.node_timeout),
            targets,
        })
    }

    /// Returns the names of all requested nodes, in order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.targets.iter().map(|target| target.node.as_str())
    }

    /// Runs `ringfence ARGS` in each agent's pod and parses its stdout as JSON. Returns one answer
    /// per node, in the nodes' order. `longer` is how long the command itself may wait, in addition
    /// to `--node-timeout`.
    pub async fn ask_all<T: DeserializeOwned>(
        &self,
        args: &[&str],
        longer: Duration,
    ) -> Vec<(String, Result<T, NodeError>)> {
        let asked = self.targets.iter().map(|target| async move {
            let answer = self
                .ask(target, args, self.patience.saturating_add(longer))
                .await;
            (target.node.clone(), answer)
        });
        let answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        let mut answers: Vec<_> = answers.collect().await;
        answers.sort_by(|one, other| one.0.cmp(&other.0));
        answers
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        target: &Target,
        args: &[&str],
        patience: Duration,
    ) -> Result<T, NodeError> {
        let pod = target.pod.as_ref().map_err(Clone::clone)?;
        let answer = timeout(patience, self.output(pod, args)).await;
        let answer = answer.map_err(|_| NodeError::Late {
            seconds: patience.as_secs(),
        })??;
        serde_json::from_slice(&answer).map_err(|error| NodeError::Answer {
            said: printable(&error.to_string()),
        })
    }

    /// Returns the command line for the pod.
    fn command(&self, args: &[&str]) -> Vec<String> {
        let socket = self.socket.display().to_string();
        let words = [exec::PROGRAM, "--socket", &socket];
        words
            .iter()
            .chain(args)
            .map(|word| (*word).to_owned())
            .collect()
    }
}
