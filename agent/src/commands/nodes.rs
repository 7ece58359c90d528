//! The same commands for agents of other nodes, in one table with the node's name in front.

use std::time::Duration;

use anyhow::anyhow;
use ringfence_api::{InForce, OnNode, Status, Whole};
use serde::Serialize;

use super::health::{Health, health};
use super::rows::Row;
use super::status_text::verdict;
use super::{block_on, wire_name};
use crate::cli::{Global, NodeArgs, Output, PodName, StatusArgs};
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Column, Paint, plain, print, print_json, table};
use crate::remote::{Fleet, NodeError};

/// A node's name, and the answer of its agent.
pub(super) type Answer<T> = (String, Result<T, NodeError>);

/// Runs `ringfence endpoints`, `connections` or `drops`.
pub(super) fn list<T: Row>(global: &Global, args: &NodeArgs, output: Output) -> Outcome {
    let command = [T::COMMAND, "-o", "json"];
    let answers: Vec<Answer<Vec<OnNode<T>>>> = ask(global, args, &command, Duration::ZERO)?;
    let (rows, ended) = split(answers);
    let named = |(node, rows): (String, Vec<OnNode<T>>)| {
        rows.into_iter().map(move |row| OnNode {
            // Whatever the agent calls itself.
            node: node.clone(),
            row: row.row,
        })
    };
    let rows: Vec<OnNode<T>> = rows.into_iter().flat_map(named).collect();
    // Nodes that didn't answer must not be reported as having "none".
    if !rows.is_empty() || output == Output::Json || ended.is_whole() {
        super::list(rows, output)?;
    }
    ended.outcome()
}

/// Runs `ringfence status`.
pub(super) fn status(global: &Global, args: &StatusArgs) -> Outcome {
    if let Some(pod) = &args.wait {
        return wait(global, args, pod);
    }
    let command = ["status", "-o", "json"];
    let answers: Vec<Answer<Whole<Status>>> = ask(global, &args.nodes, &command, Duration::ZERO)?;
    let (answers, ended) = split(answers);
    let well = |(node, status): &NodeStatus| is_well(node, &status.known);
    let all_well = answers.iter().all(well);
    match args.output {
        Output::Table if answers.is_empty() => {}
        Output::Table => print(&table(&columns(), &answers))?,
        Output::Json => {
            let named = answers.into_iter().map(|(node, mut status)| {
                status.known.node = node;
                status
            });
            print_json(&named.collect::<Vec<_>>())?;
        }
    }
    match (ended.outcome()?, all_well) {
        (found, true) => Ok(found),
        (_, false) => Ok(Found::Something),
    }
}

/// A node's name, and the status of its agent.
type NodeStatus = (String, Whole<Status>);

/// Returns the columns of `status`; the last one has no fixed width.
fn columns() -> [Column<'static, NodeStatus>; 7] {
    let text = |name, show: fn(&Status) -> String| {
        Column::text(name, move |(_, status): &NodeStatus| {
            plain(&show(&status.known))
        })
    };
    let number = |name, show: fn(&Status) -> String| {
        Column::number(name, move |(_, status): &NodeStatus| show(&status.known))
    };
    [
        Column::text("node", |(node, _): &NodeStatus| plain(node)),
        text("version", |status| status.version.clone()),
        text("mode", |status| status.mode.to_string()),
        number("endpoints", |status| status.endpoints.to_string()),
        number("unguarded", |status| status.unguarded.len().to_string()),
        number("generation", |status| status.generation.to_string()),
        Column::text("health", |(node, status): &NodeStatus| {
            plain(&state(node, &status.known))
        }),
    ]
}

/// Returns the health of a node's agent.
fn state(node: &str, status: &Status) -> String {
    let mut health = verdict(status, Paint::off());
    if status.node != node {
        health.push_str(&format!(
            "; its agent runs as node {:?} and guards that node's pods: see --node-name",
            status.node
        ));
    }
    health
}

/// Reports whether nothing on a node needs attention.
fn is_well(node: &str, status: &Status) -> bool {
    health(status) == Health::Healthy && status.node == node
}

/// Runs `ringfence status --wait NS/POD --node NODE`.
fn wait(global: &Global, args: &StatusArgs, pod: &PodName) -> Outcome {
    let (pod, seconds) = (wire_name(pod)?, args.timeout.to_string());
    let command = [
        "status",
        "--wait",
        &pod,
        "--timeout",
        &seconds,
        "-o",
        "json",
    ];
    let longer = Duration::from_secs(args.timeout);
    let answers: Vec<Answer<InForce>> = ask(global, &args.nodes, &command, longer)?;
    for (node, answer) in &answers {
        let invalid = answer.iter().flat_map(|answer| &answer.invalid);
        invalid.for_each(|line| eprintln!("ringfence: {node}: warning: {line}"));
    }
    waited(answers, args.output, |answer| {
        format!("{pod} is in force (generation {})", answer.generation)
    })
}

/// Prints the agents' answers about something that was waited for, one line per node. A node where
/// it isn't in force yet is a finding.
pub(super) fn waited<T: Serialize>(
    answers: Vec<Answer<T>>,
    output: Output,
    line: impl Fn(&T) -> String,
) -> Outcome {
    let (late, answers): (Vec<_>, Vec<_>) = answers.into_iter().partition(is_late);
    for (node, answer) in &late {
        let why = answer.as_ref().err();
        why.iter().for_each(|why| complain(node, why));
    }
    let (answers, ended) = split(answers);
    match output {
        Output::Table => {
            let lines = answers.iter();
            let lines = lines.map(|(node, answer)| format!("{node}: {}\n", line(answer)));
            print(&lines.collect::<String>())?;
        }
        Output::Json => {
            let rows = answers.into_iter();
            let rows = rows.map(|(node, row)| OnNode { node, row });
            print_json(&rows.collect::<Vec<_>>())?;
        }
    }
    match (ended.outcome()?, late.is_empty()) {
        (found, true) => Ok(found),
        (_, false) => Ok(Found::Something),
    }
}

/// Reports whether the agent answered that something isn't in force.
fn is_late<T>(answer: &Answer<T>) -> bool {
    matches!(answer.1, Err(NodeError::Ended { code: 1, .. }))
}

fn ask<T: serde::de::DeserializeOwned>(
    global: &Global,
    args: &NodeArgs,
    command: &[&str],
    longer: Duration,
) -> Result<Vec<Answer<T>>, Failure> {
    block_on(async {
        let fleet = Fleet::find(global, args).await?;
        Ok(fleet.ask_all(command, longer).await)
    })?
}

/// Prints to stderr why a node's agent gave no answer.
pub(super) fn complain(node: &str, why: &NodeError) {
    eprintln!("ringfence: {node}: {why}");
}

/// Separates the answers from the faults.
fn split<T>(answers: Vec<Answer<T>>) -> (Vec<(String, T)>, Ended) {
    let asked = answers.len();
    let mut came = Vec::new();
    let mut faults = Vec::new();
    for (node, answer) in answers {
        match answer {
            Ok(answer) => came.push((node, answer)),
            Err(why) => faults.push((node, why)),
        }
    }
    (came, Ended { asked, faults })
}

/// The outcome of asking all nodes.
struct Ended {
    asked: usize,
    faults: Vec<(String, NodeError)>,
}

impl Ended {
    fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// Names the nodes that gave no answer; fails if there are any.
    fn outcome(&self) -> Outcome {
        for (node, why) in &self.faults {
            complain(node, why);
        }
        match self.faults.len() {
            0 => Ok(Found::Fine),
            some => Err(Failure::fault(anyhow!(
                "no answer from {some} of {} nodes",
                self.asked
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfence_api::Mode;

    use super::*;

    fn well(node: &str) -> Status {
        Status {
            node: node.into(),
            version: "0.1.0".into(),
            mode: Mode::Audit,
            passes: 1,
            source_connected: true,
            generation: 7,
            endpoints: 3,
            ..Status::default()
        }
    }

    #[test]
    fn a_status_is_one_line_that_ends_with_what_is_worst() {
        let line = |status: &Status| {
            let rows = [("n".to_owned(), status.clone().into())];
            table(&columns(), &rows).lines().nth(1).unwrap().to_owned()
        };
        let mut status = well("n");
        let said = line(&status);
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(words, ["n", "0.1.0", "audit", "3", "0", "7", "healthy"]);
        status.error = Some("map RULES is full".into());
        let said = line(&status);
        assert!(said.ends_with("  failing: map RULES is full"), "{said}");
    }

    #[test]
    fn an_agent_that_takes_itself_for_another_nodes_is_not_well() {
        let said = state("n", &well("m"));
        assert!(
            said.starts_with("healthy; its agent runs as node \"m\""),
            "{said}"
        );
    }

    #[test]
    fn a_node_is_well_if_its_agent_is_and_takes_itself_for_that_nodes() {
        let mut status = well("n");
        assert!(is_well("n", &status) && !is_well("m", &status));
        status.source_connected = false;
        assert!(!is_well("n", &status));
    }

    #[test]
    fn a_status_of_a_newer_version_is_understood_and_kept_whole() {
        let mut answer = serde_json::to_value(well("n")).unwrap();
        answer["newer"] = 1.into();
        let status: Whole<Status> = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(status.known, well("n"));
        assert_eq!(serde_json::to_value(status).unwrap(), answer);
        let none = serde_json::from_str::<Whole<Status>>("{}").unwrap_err();
        assert!(none.to_string().contains("missing field"), "{none}");
    }

    #[test]
    fn whatever_gave_no_answer_is_a_fault() {
        let (came, ended) = split(vec![("a".to_owned(), Ok(1)), ("b".to_owned(), Ok(2))]);
        assert_eq!(came, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert!(ended.is_whole() && ended.outcome().is_ok());
        let late = NodeError::Late { seconds: 1 };
        let (came, ended) = split(vec![("a".to_owned(), Ok(1)), ("b".to_owned(), Err(late))]);
        assert_eq!(came.len(), 1);
        let failure = ended.outcome().unwrap_err();
        assert_eq!(failure.code(), 3);
        assert_eq!(failure.to_string(), "no answer from 1 of 2 nodes");
    }
}
