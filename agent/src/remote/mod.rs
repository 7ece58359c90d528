//! Agents of other nodes, asked by `exec` of the same binary in their pods, as tools of
//! other network plugins do: nothing listens for it, and whoever may exec in the agents'
//! namespace is as good as root on its nodes anyhow.
//!
//! | module | does |
//! |---|---|
//! | `find` | which pod is the agent of which node |
//! | `exec` | one command in one pod: its output, and how it ended |
//! | `follow` | lines of several agents as they come |
//! | `error` | why agents can't be found, and why one can't be asked |
//!
//! Commands and flags are those that every version of the binary has; what only newer
//! ones know is tried first and done without where the answer is a usage error.

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

/// Agents that are asked at the same time.
const AT_ONCE: usize = 16;

/// The agents of the nodes that a command asks.
#[derive(Debug)]
pub struct Fleet {
    pods: Api<Pod>,
    namespace: String,
    /// `--socket`, which is a place in the agents' pods.
    socket: PathBuf,
    patience: Duration,
    targets: Vec<Target>,
}

impl Fleet {
    /// Finds the agents' pods by the API server's word.
    ///
    /// # Errors
    /// If there are no credentials, or pods or nodes can't be listed. A node without an
    /// agent is none: asking it is.
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

    /// The names of all nodes that are asked, in order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.targets.iter().map(|target| target.node.as_str())
    }

    /// Runs `ringfence ARGS` in each agent's pod and reads its stdout as JSON; one answer
    /// a node, in the nodes' order. `longer` is what the command itself may wait, beyond
    /// `--node-timeout`.
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

    /// The command line in the pod.
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
