//! Agents of other nodes, queried from a workstation by `exec` in their pods.
#![allow(clippy::unwrap_used)]

mod agents;
mod answers;
mod follow;
mod rbac;
mod waiting;

use std::path::PathBuf;
use std::process::Command;

use clap::Parser as _;
use ringfence::cli::{Cli, Command as Subcommand, Global, NodeArgs};
use ringfence::remote::{FindError, Fleet};
use ringfence_tests::apiserver::{ApiServer, Exec};
use serde_json::{Value, json};

/// The namespace of the agents in deploy/base.
const NAMESPACE: &str = "ringfence";

/// An API server whose agents are commands chosen by the test.
struct Cluster {
    server: ApiServer,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Creates a cluster with an agent's pod `agent-NODE` on each of these nodes.
    fn of(nodes: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ApiServer::start().unwrap();
        server
            .write_kubeconfig(&folder.path().join("kubeconfig"))
            .unwrap();
        for node in nodes {
            server.apply_value(node_object(node)).unwrap();
            server.apply_value(agent_pod(node)).unwrap();
        }
        Self { server, folder }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Runs a shell script in place of every command.
    fn run_in_pods(&self, script: impl Fn(&Exec) -> String + Send + Sync + 'static) {
        self.server.on_exec(move |exec| Ok(shell(&script(exec))));
    }

    /// Finds the agents as `ringfence connections FLAGS` would.
    async fn find(&self, flags: &str) -> Result<Fleet, FindError> {
        let (global, mut nodes) = arguments(flags);
        nodes.kubeconfig = Some(self.kubeconfig());
        Fleet::find(&global, &nodes).await
    }
}

fn arguments(flags: &str) -> (Global, NodeArgs) {
    let line = format!("ringfence connections {flags}");
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    match cli.command {
        Subcommand::Connections(args) => (cli.global, args.nodes),
        other => panic!("{other:?}"),
    }
}

fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    shell
}

fn node_object(name: &str) -> Value {
    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}})
}

/// Returns a running agent's pod as its DaemonSet creates it.
fn agent_pod(node: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": format!("agent-{node}"), "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "ringfence"},
        },
        "spec": {
            "nodeName": node, "hostNetwork": true,
            "containers": [{"name": "agent", "image": "ringfence"}],
        },
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "agent", "image": "ringfence", "imageID": "i", "ready": true, "restartCount": 0,
            "state": {"running": {}},
        }]},
    })
}
