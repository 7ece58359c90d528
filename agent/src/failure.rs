//! How a command ends: the one place that knows exit codes.

use std::fmt;
use std::io;

/// What a command found, where that isn't a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Exit 0.
    Fine,
    /// Exit 1: denied, or a check that found something.
    Something,
}

/// Why a command couldn't do its work.
#[derive(Debug)]
pub enum Failure {
    /// Exit 2: the arguments or the files given are at fault.
    Input(anyhow::Error),
    /// Exit 3: the machine, the kernel or the agent is.
    Fault(anyhow::Error),
}

/// How a command ends.
pub type Outcome = Result<Found, Failure>;

impl Failure {
    /// Bad usage or input (exit 2).
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Self::Input(error.into())
    }

    /// A fault (exit 3).
    pub fn fault(error: impl Into<anyhow::Error>) -> Self {
        Self::Fault(error.into())
    }

    /// The process's exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Fault(_) => 3,
        }
    }

    fn error(&self) -> &anyhow::Error {
        match self {
            Self::Input(error) | Self::Fault(error) => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(self.error()))
    }
}

/// An error and its causes on one line, each said once: errors that name their
/// cause themselves would else have it repeated.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// Prints a failure to stderr and returns the exit code.
///
/// A reader that closed our stdout (`ringfence drops | head`) has seen what it
/// wanted, so that is no failure.
pub fn report(outcome: &Outcome) -> u8 {
    match outcome {
        Ok(Found::Fine) => 0,
        Ok(Found::Something) => 1,
        Err(failure) if is_broken_pipe(failure.error()) => 0,
        Err(failure) => {
            eprintln!("ringfence: {failure}");
            failure.code()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_exits_2_and_a_fault_exits_3() {
        assert_eq!(report(&Err(Failure::input(anyhow::anyhow!("bad")))), 2);
        assert_eq!(report(&Err(Failure::fault(anyhow::anyhow!("bad")))), 3);
        assert_eq!(report(&Ok(Found::Something)), 1);
    }

    #[test]
    fn each_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening x: {source}")]
        struct Named {
            source: io::Error,
        }
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = anyhow::Error::from(Named { source }).context("starting");
        assert_eq!(one_line(&error), "starting: opening x: entity not found");
    }

    #[test]
    fn a_closed_stdout_is_no_failure() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(report(&Err(Failure::fault(error))), 0);
    }
}
