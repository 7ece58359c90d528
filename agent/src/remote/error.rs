//! Why agents can't be found, and why an agent can't be asked.

use kube::config::InClusterError;

use crate::failure::{Failure, one_line};
use crate::kubernetes::credentials::AccessError;
use crate::output::plain;

/// Maximum length of foreign text that is passed on, in characters.
const LONGEST: usize = 500;

/// Why no agent could be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There are no credentials.
    #[error(
        "no cluster to ask: neither --kubeconfig nor KUBECONFIG is given, and there is neither a \
         ~/.kube/config nor a pod's service account ({0})"
    )]
    NoCluster(InClusterError),
    /// The credentials can't be used.
    #[error(transparent)]
    Access(AccessError),
    /// The API server refuses a list.
    #[error("you may not list {what}: this requires the verb list on {resource}{place} ({said})")]
    Forbidden {
        /// What was listed.
        what: String,
        /// The resource's name in a role.
        resource: &'static str,
        /// The namespace in which a role has to allow it.
        place: String,
        /// The API server's message.
        said: String,
    },
    /// The API server rejects the selector.
    #[error("--agent-selector {selector:?}: {said}")]
    Selector {
        /// The selector.
        selector: String,
        /// The API server's message.
        said: String,
    },
    /// A list failed.
    #[error("listing {what}: {said}")]
    List {
        /// What was listed.
        what: String,
        /// The cause.
        said: String,
    },
    /// A list takes too long.
    #[error("listing {what}: no answer within {seconds} s; raise --node-timeout to wait longer")]
    Late {
        /// What was listed.
        what: String,
        /// The time limit.
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
    /// There is no pod.
    #[error(
        "no agent runs there: no pod with labels {selector} in namespace {namespace} is on that \
         node; does the node exist, and does the agents' DaemonSet reach it?"
    )]
    NoPod {
        /// The value of `--agent-namespace`.
        namespace: String,
        /// The value of `--agent-selector`.
        selector: String,
    },
    /// The pod isn't running.
    #[error("its agent isn't running ({why}); see `kubectl -n {namespace} describe pod {pod}`")]
    NotRunning {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
        /// The reason from its status.
        why: String,
    },
}

/// Why one node's agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no agent.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// The API server refuses the exec.
    #[error(
        "you may not exec in its pod: this requires the verbs get and create on pods/exec in \
         namespace {namespace} ({said})"
    )]
    Forbidden {
        /// The pod's namespace.
        namespace: String,
        /// The API server's message.
        said: String,
    },
    /// The exec couldn't be started.
    #[error("exec in its pod {pod} failed: {said}")]
    Exec {
        /// The pod, as `namespace/name`.
        pod: String,
        /// The cause.
        said: String,
    },
    /// The container runtime couldn't start the command.
    #[error("{program} couldn't be started in its pod {pod}: {said}")]
    NotStarted {
        /// The command.
        program: &'static str,
        /// The pod, as `namespace/name`.
        pod: String,
        /// The cause.
        said: String,
    },
    /// The command ended by itself with an error.
    #[error("its agent says: {said} (exit code {code}){}", hint(*code))]
    Ended {
        /// The exit code, as of any `ringfence` command.
        code: u8,
        /// The command's stderr.
        said: String,
    },
    /// No answer came in time.
    #[error("no answer within {seconds} s; raise --node-timeout to wait longer")]
    Late {
        /// The time limit.
        seconds: u64,
    },
    /// The connection ended before the command did.
    #[error("the connection to its pod {pod} broke: {said}")]
    Broken {
        /// The pod, as `namespace/name`.
        pod: String,
        /// The cause.
        said: String,
    },
    /// The answer isn't what this version expects.
    #[error("can't parse its answer ({said}); is its agent of another version?")]
    Answer {
        /// What is wrong with it.
        said: String,
    },
    /// The answer is larger than any agent's.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Returns a hint for an exit code.
fn hint(code: u8) -> &'static str {
    match code {
        2 => "; is it of an older version?",
        _ => "",
    }
}

/// Returns the API server's message, or why there is none.
pub(super) fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => printable(&status.message),
        kube::Error::Api(status) => format!("status {}", status.code),
        other => printable(&one_line(&other.into())),
    }
}

/// Puts foreign text on one line of bounded length, without terminal control characters.
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
