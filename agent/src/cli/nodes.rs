//! The agents that a command asks.

use std::path::PathBuf;

use clap::{Args, value_parser};

/// The local agent over its socket, or other agents in their pods.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// Ask this node's agent instead of the local one, by `exec` of `ringfence` in its pod; repeat
    /// for more. Requires a kubeconfig, and permission to list pods and to exec in the agents'
    /// namespace
    #[arg(long, value_name = "NODE", group = "nodes", value_parser = node_name)]
    pub node: Vec<String>,
    /// Ask every node's agent in the same way, and name nodes without one. Also requires permission
    /// to list nodes
    #[arg(long, group = "nodes")]
    pub all_nodes: bool,
    /// The cluster's kubeconfig [default: KUBECONFIG, ~/.kube/config, or the
    /// service account of the pod that this runs in]
    #[arg(long, value_name = "FILE", requires = "nodes")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the agents' pods
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = "ringfence",
        requires = "nodes",
        value_parser = namespace
    )]
    pub agent_namespace: String,
    /// The label selector of the agents' pods
    #[arg(
        long,
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/name=ringfence",
        requires = "nodes",
        value_parser = selector
    )]
    pub agent_selector: String,
    /// Time limit for each node's agent and for each list from the API server, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        requires = "nodes",
        value_parser = value_parser!(u64).range(1..=3600)
    )]
    pub node_timeout: u64,
}

impl NodeArgs {
    /// Reports whether agents are asked in their pods.
    pub fn is_remote(&self) -> bool {
        self.all_nodes || !self.node.is_empty()
    }
}

/// Node names are DNS subdomains, and are safe to print in messages.
fn node_name(text: &str) -> Result<String, String> {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(fits) {
        return Err("not a valid node name".into());
    }
    Ok(text.to_owned())
}

/// A namespace is a DNS label, and is safe in the path of a request.
fn namespace(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(fits) {
        return Err("not a valid namespace name".into());
    }
    Ok(text.to_owned())
}

/// Without a selector, every pod of the namespace would count as an agent.
fn selector(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the selector must not be empty".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Result<NodeArgs, clap::Error> {
        let cli = Cli::try_parse_from(line.split_whitespace())?;
        match cli.command {
            Command::Status(args) => Ok(args.nodes),
            Command::Drops(args) => Ok(args.nodes),
            Command::Endpoints(args) | Command::Connections(args) => Ok(args.nodes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_node_the_local_agent_is_asked() {
        for command in ["status", "endpoints", "connections", "drops"] {
            let args = |flags: &str| parse(&format!("ringfence {command} {flags}")).unwrap();
            assert!(!args("").is_remote());
            assert!(args("--all-nodes").is_remote());
            let some = args("--node a --node b --kubeconfig /k --agent-namespace n");
            assert_eq!(
                (some.is_remote(), some.node),
                (true, vec!["a".into(), "b".into()])
            );
            assert_eq!(some.kubeconfig, Some("/k".into()));
            assert_eq!(some.agent_namespace, "n");
        }
        assert!(parse("ringfence status --wait a/b --timeout 1 --node n").is_ok());
    }

    #[test]
    fn flags_that_would_mean_nothing_are_refused() {
        for flags in [
            "--all-nodes --node a",
            "--kubeconfig /k",
            "--agent-namespace n",
            "--agent-selector a=b",
            "--node-timeout 1",
            "--all-nodes --node-timeout 0",
            "--all-nodes --agent-selector=",
            "--all-nodes --agent-namespace a/b",
            "--node=",
            "--node a/b",
            "--wait a/b --all-nodes",
        ] {
            let error = parse(&format!("ringfence status {flags}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{flags}");
            // The error names one of the flags.
            let text = error.to_string();
            let named = flags
                .split([' ', '='])
                .filter(|word| word.starts_with("--"));
            assert!(
                named.into_iter().any(|flag| text.contains(flag)),
                "{flags}: {text}"
            );
        }
    }
}
