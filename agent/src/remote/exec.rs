//! Runs one command in one pod, over the API server's WebSocket.

use bytes::BytesMut;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess};
use tokio::io::AsyncReadExt as _;

use super::Fleet;
use super::error::{NodeError, printable, said};
use super::find::CONTAINER;

/// The path of the binary in the image (deploy/Dockerfile).
pub(super) const PROGRAM: &str = "/bin/ringfence";
/// More than the JSON of a full table of connections.
const LONGEST_ANSWER: usize = 1 << 28;
/// Bytes of stderr that are kept; the rest is read and dropped, so that nothing blocks.
const LONGEST_COMPLAINT: usize = 1 << 14;
/// Size of a read.
const CHUNK: usize = 1 << 16;

impl Fleet {
    /// Returns the stdout of a command that reads no stdin, if it succeeds or ends with a finding
    /// (exit code 1), as `status` does if the agent isn't healthy.
    pub(super) async fn output(&self, pod: &str, args: &[&str]) -> Result<Vec<u8>, NodeError> {
        let process = self.start(pod, args, false).await?;
        let mut answer = Vec::new();
        let take = |bytes: &[u8]| {
            if answer.len() + bytes.len() > LONGEST_ANSWER {
                return Err(NodeError::TooLong(LONGEST_ANSWER));
            }
            answer.extend_from_slice(bytes);
            Ok(())
        };
        let (status, complaint) = self.pump(pod, process, take).await?;
        match self.judge(pod, &status, &complaint) {
            Err(NodeError::Ended { code: 1, .. }) if !answer.is_empty() => Ok(answer),
            Err(why) => Err(why),
            Ok(()) => Ok(answer),
        }
    }

    /// Starts a command. Its stdin, if requested, stays open until the process is dropped.
    pub(super) async fn start(
        &self,
        pod: &str,
        args: &[&str],
        stdin: bool,
    ) -> Result<AttachedProcess, NodeError> {
        let params = AttachParams::default()
            .container(CONTAINER)
            .stdin(stdin)
            .stdout(true)
            .stderr(true)
            .max_stdout_buf_size(CHUNK);
        let started = self.pods.exec(pod, self.command(args), &params).await;
        started.map_err(|error| {
            let is_refusal = matches!(&error, kube::Error::Api(status) if status.code == 403);
            let said = said(error);
            if is_refusal {
                return NodeError::Forbidden {
                    namespace: self.namespace.clone(),
                    said,
                };
            }
            let pod = self.full_name(pod);
            NodeError::Exec { pod, said }
        })
    }

    /// Passes stdout on until the process ends. Returns how it ended, and the start of stderr.
    pub(super) async fn pump<E: From<NodeError>>(
        &self,
        pod: &str,
        mut process: AttachedProcess,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(Status, Vec<u8>), E> {
        let broken = |said: String| {
            let pod = self.full_name(pod);
            NodeError::Broken { pod, said }
        };
        let streams = (process.stdout(), process.stderr(), process.take_status());
        let (Some(mut stdout), Some(mut stderr), Some(status)) = streams else {
            return Err(broken("it has no output".into()).into());
        };
        tokio::pin!(status);
        let mut ended = None;
        let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
        let (mut out_open, mut err_open) = (true, true);
        let mut complaint = Vec::new();
        while out_open || err_open || ended.is_none() {
            out.reserve(CHUNK);
            err.reserve(CHUNK);
            // Both streams end when the process does. If the connection breaks, they don't, and
            // only the status shows it.
            tokio::select! {
                biased;
                read = stdout.read_buf(&mut out), if out_open => {
                    out_open = read.map_err(|error| broken(error.to_string()))? > 0;
                    take(&out.split())?;
                }
                read = stderr.read_buf(&mut err), if err_open => {
                    err_open = read.map_err(|error| broken(error.to_string()))? > 0;
                    let room = LONGEST_COMPLAINT - complaint.len();
                    let more = err.split();
                    complaint.extend_from_slice(&more[..more.len().min(room)]);
                }
                status = &mut status, if ended.is_none() => match status {
                    Some(status) => ended = Some(status),
                    None => {
                        let why = match process.join().await {
                            Ok(()) => "it ended without the command's result".into(),
                            Err(error) => printable(&error.to_string()),
                        };
                        return Err(broken(why).into());
                    }
                },
            }
        }
        // The loop ends only with a status.
        let status = ended.ok_or_else(|| broken("it has no status".into()))?;
        Ok((status, complaint))
    }

    /// Returns an error unless the command succeeded.
    pub(super) fn judge(
        &self,
        pod: &str,
        status: &Status,
        complaint: &[u8],
    ) -> Result<(), NodeError> {
        if status.status.as_deref() == Some("Success") {
            return Ok(());
        }
        let message = status.message.as_deref().unwrap_or("no reason given");
        let Some(code) = exit_code(status) else {
            return Err(NodeError::NotStarted {
                program: PROGRAM,
                pod: self.full_name(pod),
                said: printable(message),
            });
        };
        let said = match printable(&String::from_utf8_lossy(complaint)) {
            nothing if nothing.is_empty() => printable(message),
            said => said,
        };
        Err(NodeError::Ended { code, said })
    }

    pub(super) fn full_name(&self, pod: &str) -> String {
        format!("{}/{pod}", self.namespace)
    }
}

/// Returns the exit code of a command that ran and failed, as reported by a kubelet.
fn exit_code(status: &Status) -> Option<u8> {
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let code = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    // A larger code is a signal's, or none of ours.
    let code: i32 = code.message.as_deref()?.parse().ok()?;
    Some(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn code(status: Value) -> Option<u8> {
        exit_code(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn an_exit_code_is_told_from_a_command_that_never_ran() {
        let ended = |code: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode",
                   "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
        };
        assert_eq!(code(ended("3")), Some(3));
        assert_eq!(code(ended("1000")), Some(255));
        assert_eq!(code(ended("x")), None);
        let never = json!({"status": "Failure", "reason": "InternalError", "message": "no such file",
                           "details": {"causes": [{"message": "no such file"}]}});
        assert_eq!(code(never), None);
    }
}
