//! Finds the pod of each node's agent.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, Node, Pod};
use kube::api::{ListParams, ObjectList, PartialObjectMeta};
use kube::{Api, Client};
use tokio::time::timeout;

use super::error::{Absent, FindError, printable, said};
use crate::cli::NodeArgs;

/// The agent's container, as named in deploy/base.
pub(super) const CONTAINER: &str = "agent";
/// Objects per page, as in kubectl.
const PAGE: u32 = 500;

/// A node, and the pod of its agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) node: String,
    pub(super) pod: Result<String, Absent>,
}

/// Finds the agents of the requested nodes, in the order of their names.
pub(super) async fn targets(client: &Client, args: &NodeArgs) -> Result<Vec<Target>, FindError> {
    let pods = pods(client, args).await?;
    let nodes = if args.all_nodes {
        let mut nodes = nodes(client, args).await?;
        // A pod may be on a node whose object is gone, or doesn't exist yet.
        nodes.extend(pods.iter().filter_map(node_of).map(str::to_owned));
        nodes
    } else {
        args.node.iter().cloned().collect()
    };
    if nodes.is_empty() {
        return Err(FindError::NoNodes);
    }
    Ok(choose(&pods, &nodes, args))
}

async fn pods(client: &Client, args: &NodeArgs) -> Result<Vec<Pod>, FindError> {
    let what = format!("pods in namespace {}", args.agent_namespace);
    let api: Api<Pod> = Api::namespaced(client.clone(), &args.agent_namespace);
    let params = ListParams::default().labels(&args.agent_selector);
    let listed = all(params, |page| {
        let api = api.clone();
        async move { api.list(&page).await }
    });
    let listed = within(args, &what, listed).await?;
    listed.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 400 => FindError::Selector {
            selector: args.agent_selector.clone(),
            said: printable(&status.message),
        },
        error => list_error(error, what, "pods", &args.agent_namespace),
    })
}

/// Returns the names of all nodes.
async fn nodes(client: &Client, args: &NodeArgs) -> Result<BTreeSet<String>, FindError> {
    let api: Api<Node> = Api::all(client.clone());
    let listed = all(ListParams::default(), |page| {
        let api = api.clone();
        // Metadata only: a Node's status lists its images.
        async move { api.list_metadata(&page).await }
    });
    let listed = within(args, "nodes", listed).await?;
    let listed: Vec<PartialObjectMeta<Node>> =
        listed.map_err(|error| list_error(error, "nodes".to_owned(), "nodes", ""))?;
    Ok(listed
        .into_iter()
        .filter_map(|node| node.metadata.name)
        .collect())
}

/// Lists page by page.
async fn all<T: Clone, F: Future<Output = kube::Result<ObjectList<T>>>>(
    params: ListParams,
    ask: impl Fn(ListParams) -> F,
) -> kube::Result<Vec<T>> {
    let mut page = params.limit(PAGE);
    let mut items = Vec::new();
    loop {
        let list = ask(page.clone()).await?;
        items.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(items),
        }
    }
}

async fn within<T>(
    args: &NodeArgs,
    what: &str,
    list: impl Future<Output = T>,
) -> Result<T, FindError> {
    let listed = timeout(Duration::from_secs(args.node_timeout), list).await;
    listed.map_err(|_| FindError::Late {
        what: what.to_owned(),
        seconds: args.node_timeout,
    })
}

fn list_error(
    error: kube::Error,
    what: String,
    resource: &'static str,
    namespace: &str,
) -> FindError {
    let is_refusal = matches!(&error, kube::Error::Api(status) if status.code == 403);
    let said = said(error);
    if !is_refusal {
        return FindError::List { what, said };
    }
    let place = match namespace {
        "" => "; --node NODE doesn't need it".to_owned(),
        namespace => format!(" in namespace {namespace}"),
    };
    FindError::Forbidden {
        what,
        resource,
        place,
        said,
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Chooses the best pod of each node: running ones first, then those that aren't being deleted.
fn choose(pods: &[Pod], nodes: &BTreeSet<String>, args: &NodeArgs) -> Vec<Target> {
    let mut best: BTreeMap<&str, (bool, bool, &str)> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    for pod in pods {
        let (Some(node), Some(name)) = (node_of(pod), pod.metadata.name.as_deref()) else {
            continue;
        };
        let why = why_not(pod);
        let rank = (
            why.is_some(),
            pod.metadata.deletion_timestamp.is_some(),
            name,
        );
        reasons.extend(why.map(|why| (name, why)));
        let known = best.entry(node).or_insert(rank);
        *known = (*known).min(rank);
    }
    let mut pod = |node: &String| match best.get(node.as_str()) {
        None => Err(Absent::NoPod {
            namespace: args.agent_namespace.clone(),
            selector: args.agent_selector.clone(),
        }),
        Some((_, _, name)) => match reasons.remove(name) {
            None => Ok((*name).to_owned()),
            Some(why) => Err(Absent::NotRunning {
                namespace: args.agent_namespace.clone(),
                pod: (*name).to_owned(),
                why,
            }),
        },
    };
    nodes
        .iter()
        .map(|node| Target {
            node: node.clone(),
            pod: pod(node),
        })
        .collect()
}

/// Returns why nothing can be run in a pod, if that is so.
fn why_not(pod: &Pod) -> Option<String> {
    let Some(status) = &pod.status else {
        return Some("it has no status yet".into());
    };
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    if phase != "Running" {
        let reason = status.reason.iter().map(|reason| format!(", {reason}"));
        return Some(printable(&format!(
            "phase {phase}{}",
            reason.collect::<String>()
        )));
    }
    let mut containers = status.container_statuses.iter().flatten();
    let container = containers.find(|one| one.name == CONTAINER);
    let why = container?.state.as_ref().and_then(container_why_not)?;
    Some(printable(&format!("its container {CONTAINER} {why}")))
}

fn container_why_not(state: &ContainerState) -> Option<String> {
    if let Some(ended) = &state.terminated {
        return Some(format!("ended with exit code {}", ended.exit_code));
    }
    let waiting = state.waiting.as_ref()?;
    Some(format!(
        "waits: {}",
        waiting.reason.as_deref().unwrap_or("no reason given")
    ))
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
