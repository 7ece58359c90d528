//! Why agents can't be found, and why one can't be asked.

use kube::config::InClusterError;

use crate::failure::{Failure, one_line};
use crate::kubernetes::credentials::AccessError;
use crate::output::plain;

/// Characters of others' words that are passed on.
const LONGEST: usize = 500;

/// Why no agent could be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There are no credentials.
    #[error(
        "no cluster to ask: neither --kubeconfig nor KUBECONFIG is given, there is no \
         ~/.kube/config, and there is no service account of a pod ({0})"
    )]
    NoCluster(InClusterError),
    /// They can't be used.
    #[error(transparent)]
    Access(AccessError),
    /// The API server refuses a list.
    #[error("you may not list {what}: it takes the verb list on {resource}{place} ({said})")]
    Forbidden {
        /// Of what.
        what: String,
        /// As a role names it.
        resource: &'static str,
        /// Where a role has to allow it.
        place: String,
        /// What the API server says.
        said: String,
    },
    /// It takes the selector for none.
    #[error("--agent-selector {selector:?}: {said}")]
    Selector {
        /// The selector.
        selector: String,
        /// What the API server says.
        said: String,
    },
    /// A list failed.
    #[error("listing {what}: {said}")]
    List {
        /// Of what.
        what: String,
        /// Why.
        said: String,
    },
    /// A list takes too long.
    #[error("listing {what}: no answer within {seconds} s; --node-timeout gives it longer")]
    Late {
        /// Of what.
        what: String,
        /// How long it was given.
        seconds: u64,
    },
    /// The cluster has no nodes.
    #[error("the API server shows no nodes and no pods of agents")]
    NoNodes,
}

impl From<AccessError> for FindError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::NoCluster(why) => Self::NoCluster(why),
            other => Self::Access(other),
        }
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        match error {
            FindError::NoCluster(_) | FindError::Access(_) | FindError::Selector { .. } => {
                Self::input(error)
            }
            _ => Self::fault(error),
        }
    }
}

/// Why a node has no agent that could be asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Absent {
    /// No pod.
    #[error(
        "no agent runs there: no pod with labels {selector} in namespace {namespace} is on that \
         node; does the node exist, and does the agents' DaemonSet reach it?"
    )]
    NoPod {
        /// `--agent-namespace`.
        namespace: String,
        /// `--agent-selector`.
        selector: String,
    },
    /// A pod that doesn't run.
    #[error("its agent doesn't run ({why}); look with `kubectl -n {namespace} describe pod {pod}`")]
    NotRunning {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// What its status says.
        why: String,
    },
}

/// Why one node's agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is none.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// The API server refuses the exec.
    #[error(
        "you may not exec in its pod: it takes the verbs get and create on pods/exec in \
         namespace {namespace} ({said})"
    )]
    Forbidden {
        /// The pod's namespace.
        namespace: String,
        /// What the API server says.
        said: String,
    },
    /// The exec couldn't be started.
    #[error("exec in its pod {pod} failed: {said}")]
    Exec {
        /// `namespace/name`.
        pod: String,
        /// Why.
        said: String,
    },
    /// The container's runtime couldn't start the command.
    #[error("{program} couldn't be started in its pod {pod}: {said}")]
    NotStarted {
        /// The command.
        program: &'static str,
        /// `namespace/name`.
        pod: String,
        /// Why.
        said: String,
    },
    /// The command ended by itself, and not well.
    #[error("its agent says: {said} (exit code {code}){}", hint(*code))]
    Ended {
        /// The exit code, as of any `ringfence` command.
        code: u8,
        /// What it wrote to stderr.
        said: String,
    },
    /// No answer in time.
    #[error("no answer within {seconds} s; --node-timeout gives it longer")]
    Late {
        /// How long it was given.
        seconds: u64,
    },
    /// The connection ended before the command did.
    #[error("the connection to its pod {pod} broke: {said}")]
    Broken {
        /// `namespace/name`.
        pod: String,
        /// Why.
        said: String,
    },
    /// The answer isn't what this version expects.
    #[error("its answer isn't understood ({said}); is its agent of another version?")]
    Answer {
        /// What is wrong with it.
        said: String,
    },
    /// The answer is larger than any agent's.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
}

/// What an exit code suggests.
fn hint(code: u8) -> &'static str {
    match code {
        2 => "; is it of an older version?",
        _ => "",
    }
}

/// What the API server says, or why it said nothing.
pub(super) fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => printable(&status.message),
        kube::Error::Api(status) => format!("status {}", status.code),
        other => printable(&one_line(&other.into())),
    }
}

/// Others' words on one line of bounded length, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let text = text
        .trim()
        .strip_prefix("ringfence: ")
        .unwrap_or(text.trim());
    let mut line = plain(&text.chars().take(LONGEST).collect::<String>());
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_words_are_one_line_of_bounded_length_that_no_terminal_obeys() {
        let text = printable("ringfence: no agent\nanswers \u{1b}[31mon\u{7}\n");
        assert_eq!(text, "no agent answers  [31mon ");
        let long = printable(&"é".repeat(LONGEST + 1));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'), "{long}");
    }

    #[test]
    fn only_a_usage_error_suggests_an_older_version() {
        let text = |code| {
            NodeError::Ended {
                code,
                said: "x".into(),
            }
            .to_string()
        };
        assert_eq!(text(3), "its agent says: x (exit code 3)");
        let old = "its agent says: x (exit code 2); is it of an older version?";
        assert_eq!(text(2), old);
    }
}
