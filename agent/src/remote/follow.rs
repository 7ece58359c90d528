//! Passes on lines of several agents as they arrive.

use std::future::Future;
use std::io;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::{NodeError, printable};
use super::find::Target;
use super::{AT_ONCE, Fleet};

/// Maximum number of followed agents: each is a lasting connection.
pub const MOST_FOLLOWED: usize = 128;
/// Any line of JSON is far shorter.
const LONGEST_LINE: usize = 1 << 20;
/// Makes the command end with its connection. Older versions don't know the flag, and end at the
/// next line that they can't write.
const UNTIL: &str = "--until-stdin-closes";

/// Why following an agent ended.
enum Stop {
    /// The agent or the connection to it failed.
    Node(NodeError),
    /// The reader of the lines failed.
    Output(io::Error),
}

impl From<NodeError> for Stop {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl Fleet {
    /// Runs `ringfence ARGS`, which prints lines of JSON without end, in every agent's pod. Passes
    /// each value to `line` with its node, and each agent that has ended to `ended`. Returns when
    /// none is left.
    ///
    /// # Errors
    /// Returns an error of `line` at once.
    pub async fn follow_all<T: DeserializeOwned>(
        &self,
        args: &[&str],
        line: impl Fn(&str, T) -> io::Result<()>,
        ended: impl Fn(&str, &NodeError),
    ) -> io::Result<()> {
        // Limits only the opening of connections.
        let starts = Semaphore::new(AT_ONCE);
        let (starts, line) = (&starts, &line);
        let all = self.targets.iter().map(|target| async move {
            let each = |value| line(&target.node, value);
            (
                target.node.as_str(),
                self.follow(target, args, starts, each).await,
            )
        });
        let mut all: FuturesUnordered<_> = all.collect();
        while let Some((node, stop)) = all.next().await {
            match stop {
                Stop::Node(error) => ended(node, &error),
                Stop::Output(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn follow<T: DeserializeOwned>(
        &self,
        target: &Target,
        args: &[&str],
        starts: &Semaphore,
        line: impl Fn(T) -> io::Result<()>,
    ) -> Stop {
        let pod = match &target.pod {
            Ok(pod) => pod,
            Err(absent) => return Stop::Node(absent.clone().into()),
        };
        let newer = [args, &[UNTIL]].concat();
        match self.stream(pod, &newer, starts, &line).await {
            // A usage error, before any line.
            Stop::Node(NodeError::Ended { code: 2, .. }) => {
                self.stream(pod, args, starts, &line).await
            }
            stop => stop,
        }
    }

    async fn stream<T: DeserializeOwned>(
        &self,
        pod: &str,
        args: &[&str],
        starts: &Semaphore,
        line: &impl Fn(T) -> io::Result<()>,
    ) -> Stop {
        let process = match self.in_turn(starts, self.start(pod, args, true)).await {
            Ok(process) => process,
            Err(error) => return Stop::Node(error),
        };
        let mut lines = Lines::default();
        let take = |bytes: &[u8]| lines.take(bytes, |one| parsed(one, line));
        let (status, complaint) = match self.pump(pod, process, take).await {
            Ok(ended) => ended,
            Err(stop) => return stop,
        };
        let judged = self.judge(pod, &status, &complaint);
        Stop::Node(judged.err().unwrap_or(NodeError::Ended {
            code: 0,
            said: "it stopped".into(),
        }))
    }

    /// Starts a command, with limited concurrency and within `--node-timeout`.
    async fn in_turn<T>(
        &self,
        starts: &Semaphore,
        start: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        // The semaphore is never closed.
        let _turn = starts.acquire().await;
        let started = timeout(self.patience, start).await;
        started.map_err(|_| NodeError::Late {
            seconds: self.patience.as_secs(),
        })?
    }
}

fn parsed<T: DeserializeOwned>(
    line: &[u8],
    take: &impl Fn(T) -> io::Result<()>,
) -> Result<(), Stop> {
    let value = serde_json::from_slice(line).map_err(|error| NodeError::Answer {
        said: printable(&error.to_string()),
    })?;
    take(value).map_err(Stop::Output)
}

/// Splits bytes into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn take<E: From<NodeError>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        // The bytes after the last newline are the start of the next line.
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            self.add(line)?;
            let line = std::mem::take(&mut self.rest);
            each(&line)?;
        }
        self.add(last)?;
        Ok(())
    }

    fn add(&mut self, more: &[u8]) -> Result<(), NodeError> {
        if self.rest.len() + more.len() > LONGEST_LINE {
            return Err(NodeError::TooLong(LONGEST_LINE));
        }
        self.rest.extend_from_slice(more);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Result<Vec<String>, NodeError> {
        let mut all = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.take(chunk, |line| {
                all.push(String::from_utf8_lossy(line).into_owned());
                Ok::<_, NodeError>(())
            })?;
        }
        Ok(all)
    }

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        let expected = ["one", "two", "", "three"];
        let whole: &[u8] = b"one\ntwo\n\nthree\nrest";
        assert_eq!(lines(&[whole]).unwrap(), expected);
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(lines(&bytes).unwrap(), expected);
        assert_eq!(lines(&[b""]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let long = vec![b'x'; LONGEST_LINE];
        assert!(lines(&[&long]).is_ok());
        let error = lines(&[&long, b"x"]).unwrap_err();
        assert!(matches!(error, NodeError::TooLong(LONGEST_LINE)), "{error}");
    }
}
