//! The plugin's only question to the agent: is the pod's policy in force?

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_api::Bound;

/// Delay between attempts while no agent answers: it may be starting.
const AGAIN: Duration = Duration::from_millis(50);
/// Limit on an answer, which has a few hundred bytes.
const LARGEST: u64 = 64 << 10;

/// Waits until the policy of a pod is in force on its device. Returns false if it isn't in
/// force in time, or no agent answers.
pub(crate) fn wait(socket: &Path, pod: &str, ifindex: u32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let path = format!(
            "/v1/bound?pod={pod}&device={ifindex}&milliseconds={}",
            left.as_millis()
        );
        let asked = ask(socket, &path, left);
        if asked.is_ok_and(|answer| answer.in_force) {
            return true;
        }
        sleep(AGAIN.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// Reports whether an agent answers.
pub(crate) fn is_there(socket: &Path) -> bool {
    get(socket, "/v1/status", Duration::from_secs(2)).is_ok()
}

fn ask(socket: &Path, path: &str, limit: Duration) -> io::Result<Bound> {
    let body = get(socket, path, limit)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Returns the body of a response with status 200.
fn get(socket: &Path, path: &str, limit: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    // The agent answers in time by itself; the timeouts are for an agent that hangs.
    stream.set_read_timeout(Some(limit + AGAIN))?;
    stream.set_write_timeout(Some(limit + AGAIN))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: ringfence\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer)?;
    body(&answer)
}

fn body(answer: &[u8]) -> io::Result<Vec<u8>> {
    let broken = |said: String| io::Error::new(io::ErrorKind::InvalidData, said);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(answer)
        .map_err(|error| broken(error.to_string()))?;
    match (parsed, response.code) {
        (httparse::Status::Complete(head), Some(200)) => Ok(answer[head..].to_vec()),
        (_, code) => Err(broken(format!("status {code:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_if_it_is_whole_and_says_yes() {
        let said = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"in_force\":true}";
        assert_eq!(body(said).unwrap(), b"{\"in_force\":true}");
        assert!(body(b"HTTP/1.1 500 No\r\n\r\n{}").is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(body(b"").is_err());
    }

    #[test]
    fn where_no_agent_answers_the_wait_ends_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let limit = Duration::from_millis(120);
        assert!(!wait(&dir.path().join("none"), "shop/a", 7, limit));
        assert!(start.elapsed() >= limit);
        assert!(!is_there(&dir.path().join("none")));
    }
}
