//! Waiting until something is in force.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::de::DeserializeOwned;

use super::block_on;
use crate::cli::{Global, Output, PodName, StatusArgs, WaitArgs, WaitFor, WaitPolicyArgs};
use crate::client::{self, ClientError};
use crate::failure::{Failure, Found, Outcome};
use crate::output::{print, print_json};
use crate::questions::PolicyInForce;
use crate::state::InForce;

/// Between two questions to an agent that can't be asked, or says no at once.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// So much earlier than we an agent gives up, so that its reason arrives.
const ON_ITS_WAY: Duration = Duration::from_millis(200);
/// No single question lasts longer: an agent may be replaced meanwhile.
const LONGEST: Duration = Duration::from_secs(20);

/// `ringfence wait`.
pub fn wait(global: &Global, args: &WaitArgs) -> Outcome {
    match &args.what {
        WaitFor::Policy(args) => policy(global, args),
    }
}

/// `ringfence status --wait`.
pub(super) fn pod(global: &Global, args: &StatusArgs, pod: &PodName) -> Outcome {
    let name = format!("{}/{}", pod.namespace, pod.name);
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"#&%+".contains(&byte))
    {
        return Err(Failure::input(anyhow!("no pod has such a name: {name}")));
    }
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

/// `ringfence wait policy`.
fn policy(global: &Global, args: &WaitPolicyArgs) -> Outcome {
    let policy = &args.policy;
    let name = match policy.namespace.as_str() {
        "" => policy.name.clone(),
        namespace => format!("{namespace}/{}", policy.name),
    };
    let mut question = format!("/v1/policy?policy={name}");
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
        Output::Table => {
            let (pods, generation) = (pods(answer.pods), answer.generation);
            print(&format!(
                "{policy} is in force for {pods} of this node (generation {generation})\n"
            ))?;
        }
    }
    Ok(Found::Fine)
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

/// What an agent says of something that may be in force.
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

/// Asks the local agent until it says that something is in force, or the time is over:
/// then why it wasn't. The agent may be starting.
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
