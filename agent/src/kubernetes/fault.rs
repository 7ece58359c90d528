//! What went wrong with a watch, and what that says of the server.

use kube::core::Status;
use kube::runtime::watcher;

/// What a fault says of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It answers, or a file is at fault. Trying again costs it something.
    Answered,
    /// It answers that it can't: 429 or 503.
    Busy,
    /// It doesn't, or a watch's connection broke.
    Unreached,
    /// It has forgotten the watch's place in its history.
    Gone,
}

impl Fault {
    /// Of an error; a list that breaks off has cost the server, whatever broke it.
    pub(super) fn of(error: &watcher::Error, is_listing: bool) -> Self {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        match (error, status(error).map(|status| status.code)) {
            (_, Some(410)) => Self::Gone,
            (_, Some(429 | 503)) => Self::Busy,
            (_, Some(_)) => Self::Answered,
            // Of the connection, before anything was answered.
            (
                InitialListFailed(kube::Error::Service(_))
                | WatchStartFailed(kube::Error::Service(_)),
                _,
            ) => Self::Unreached,
            (WatchFailed(kube::Error::SerdeError(_) | kube::Error::Api(_)), _) => Self::Answered,
            (WatchFailed(_), _) if !is_listing => Self::Unreached,
            _ => Self::Answered,
        }
    }
}

impl Fault {
    /// Whether it says something of the server as a whole, so that it may be over once
    /// anybody gets an answer.
    pub(super) const fn is_the_servers(self) -> bool {
        matches!(self, Self::Unreached | Self::Busy)
    }
}

/// The API's own account of an error, if it gave one.
pub(super) fn status(error: &watcher::Error) -> Option<&Status> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        WatchError(status)
        | InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// On one line: with its code where there is one, else with all its causes.
pub(super) fn describe(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) => {
            let Status { code, message, .. } = status;
            format!("the API server said {code}: {}", message.trim())
        }
        None => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                let more = error.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = error.source();
            }
            text
        }
    }
}
