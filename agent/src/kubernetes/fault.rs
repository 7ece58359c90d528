//! Faults of a watch, and what they imply about the server.

use kube::core::Status;
use kube::runtime::watcher;

/// What a fault implies about the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The server answers, or a local file is at fault. A retry costs the server something.
    Answered,
    /// The server answers that it is unavailable: 429 or 503.
    Busy,
    /// The server doesn't answer, or a watch's connection broke.
    Unreached,
    /// The server has forgotten the watch's place in its history.
    Gone,
}

impl Fault {
    /// Classifies an error. A list that breaks off has cost the server something, whatever broke
    /// it.
    pub(super) fn of(error: &watcher::Error, is_listing: bool) -> Self {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        match (error, status(error).map(|status| status.code)) {
            (_, Some(410)) => Self::Gone,
            (_, Some(429 | 503)) => Self::Busy,
            (_, Some(_)) => Self::Answered,
            // A connection error before anything was answered.
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
    /// Reports whether the fault concerns the server as a whole, so that it may be over once any
    /// watch gets an answer.
    pub(super) const fn is_the_servers(self) -> bool {
        matches!(self, Self::Unreached | Self::Busy)
    }
}

/// Returns the API's own description of an error, if it gave one.
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

/// Describes an error on one line: with its status code if it has one, otherwise with its causes.
pub(super) fn describe(error: &watcher::Error) -> String {
    match status(error) {
        Some(status) => {
            let Status { code, message, .. } = status;
            format!("the API server answered {code}: {}", message.trim())
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
