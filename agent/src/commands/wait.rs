//! Waiting until something is in force.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use kube::Api;
use ringfence_api::{InForce, PolicyInForce};
use serde::de::DeserializeOwned;

use super::nodes::{Answer as OfNode, waited};
use super::{block_on, wire_name};
use crate::cli::{
    Global, NodeArgs, Output, PodName, StatusArgs, WaitArgs, WaitFor, WaitPolicyArgs,
};
use crate::client::{self, ClientError};
use crate::failure::{Failure, Found, Outcome};
use crate::kubernetes::Access;
use crate::kubernetes::seen::Seen;
use crate::output::{print, print_json};
use crate::questions::PolicyName;
use crate::remote::Fleet;

/// Pause before another attempt if the agent can't be reached or answers no at once.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The agent's time limit is shorter than ours by this much, so that its reason still arrives.
const ON_ITS_WAY: Duration = Duration::from_millis(200);
/// Longest time for a single request, since the agent may be replaced meanwhile.
const LONGEST: Duration = Duration::from_secs(20);

/// Runs `ringfence wait`.
pub fn wait(global: &Global, args: &WaitArgs) -> Outcome {
    match &args.what {
        WaitFor::Policy(args) => policy(global, args),
    }
}

/// Runs `ringfence status --wait`.
pub(super) fn pod(global: &Global, args: &StatusArgs, pod: &PodName) -> Outcome {
    let name = wire_name(pod)?;
    let question = format!("/v1/wait?pod={name}");
    let limit = Duration::from_secs(args.timeout);
    let answer: Result<InForce, String> = until(global, &question, limit)?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(last) => return Ok(late(&name, args.timeout, &last)),
    };
    for invalid in &answer.invalid {
        eprintln!("ringfence: warning: {invalid}");
    }
    match args.output {
        Output::Json => print_json(&answer)?,
        Output::Table => print(&format!(
            "{name} is in force (generation {})\n",
            answer.generation
        ))?,
    }
    Ok(Found::Fine)
}

/// Runs `ringfence wait policy`.
fn policy(global: &Global, args: &WaitPolicyArgs) -> Outcome {
    if args.nodes.is_remote() {
        return policy_on_nodes(global, args);
    }
    let policy = &args.policy;
    let mut question = format!("/v1/policy?policy={}", policy.written());
    if let Some(version) = args.at {
        question.push_str(&format!("&version={version}"));
    }
    let limit = Duration::from_secs(args.timeout);
    let answer: Result<PolicyInForce, String> = until(global, &question, limit)?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(last) => return Ok(late(&policy.to_string(), args.timeout, &last)),
    };
    match args.output {
        Output::Json => print_json(&answer)?,
        Output::Table => print(&format!("{policy} {}\n", for_pods(&answer)))?,
    }
    Ok(Found::Fine)
}

/// Asks the API server once for the policy's version, and each agent whether it has that version in
/// force.
fn policy_on_nodes(global: &Global, args: &WaitPolicyArgs) -> Outcome {
    let (policy, seconds) = (&args.policy, args.timeout.to_string());
    let written = policy.written();
    let answers: Vec<OfNode<PolicyInForce>> = block_on(async {
        let version = match args.at {
            Some(version) => version,
            None => version(&args.nodes, policy).await?,
        };
        let version = version.to_string();
        let command = [
            "wait",
            "policy",
            &written,
            "--at",
            &version,
            "--timeout",
            &seconds,
            "-o",
            "json",
        ];
        let fleet = Fleet::find(global, &args.nodes).await?;
        let longer = Duration::from_secs(args.timeout);
        Ok::<_, Failure>(fleet.ask_all(&command, longer).await)
    })??;
    waited(answers, args.output, |answer| {
        format!("{policy} {}", for_pods(answer))
    })
}

/// Returns a policy's resource version from the API server.
async fn version(nodes: &NodeArgs, policy: &PolicyName) -> Result<u64, Failure> {
    let access = Access {
        kubeconfig: nodes.kubeconfig.clone(),
    };
    let client = access.client().await.map_err(Failure::input)?;
    let kind = policy.kind();
    let api: Api<Seen> = match policy.namespace.as_str() {
        "" => Api::all_with(client, &kind),
        namespace => Api::namespaced_with(client, namespace, &kind),
    };
    let found = api.get_metadata_opt(&policy.name).await;
    let found = found.with_context(|| format!("reading {policy}"));
    let found = found.map_err(Failure::fault)?;
    let found = found.ok_or_else(|| Failure::input(anyhow!("the cluster has no {policy}")))?;
    let version = found.metadata.resource_version.unwrap_or_default();
    version.parse().map_err(|_| {
        let text = "which is not a number, so agents can't tell whether they have seen it";
        Failure::fault(anyhow!("{policy} has resource version {version:?}, {text}"))
    })
}

fn for_pods(answer: &PolicyInForce) -> String {
    let (pods, generation) = (pods(answer.pods), answer.generation);
    format!("is in force for {pods} of this node (generation {generation})")
}

fn pods(number: usize) -> String {
    match number {
        0 => "no pod".into(),
        1 => "1 pod".into(),
        more => format!("{more} pods"),
    }
}

fn late(what: &str, seconds: u64, last: &str) -> Found {
    eprintln!("ringfence: {what} is not in force after {seconds} s: {last}");
    Found::Something
}

/// An agent's answer about something that may be in force.
trait Answer: DeserializeOwned {
    fn in_force(&self) -> bool;
    fn reason(&self) -> Option<&str>;
}

impl Answer for InForce {
    fn in_force(&self) -> bool {
        self.in_force
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Answer for PolicyInForce {
    fn in_force(&self) -> bool {
        self.in_force
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// Asks the local agent until it reports that something is in force. Returns the last reason why it
/// wasn't if the time runs out. The agent may still be starting.
fn until<T: Answer>(
    global: &Global,
    question: &str,
    limit: Duration,
) -> Result<Result<T, String>, Failure> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("the agent gave no answer");
    block_on(async {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let for_agent = left.min(LONGEST).saturating_sub(ON_ITS_WAY).as_millis();
            let question = format!("{question}&milliseconds={for_agent}");
            let asked = tokio::time::timeout(left, client::get::<T>(&global.socket, &question));
            match asked.await {
                Ok(Ok(answer)) if answer.in_force() => return Ok(Ok(answer)),
                Ok(Ok(answer)) => last = answer.reason().unwrap_or_default().to_owned(),
                Ok(Err(error @ ClientError::Connect { .. })) => last = error.to_string(),
                Ok(Err(error)) => return Err(Failure::fault(error)),
                Err(_) => return Ok(Err(last)),
            }
            if Instant::now() + ASK_AGAIN >= deadline {
                return Ok(Err(last));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    })?
}
