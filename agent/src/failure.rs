//! Outcomes of commands: the only module that knows exit codes.

use std::fmt;
use std::io;

/// The result of a command that didn't fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Exit 0.
    Fine,
    /// Exit 1: denied, or a check that found something.
    Something,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Exit 2: the arguments or the files given are wrong.
    Input(anyhow::Error),
    /// Exit 3: a fault of the machine, the kernel or the agent.
    Fault(anyhow::Error),
}

/// The outcome of a command.
pub type Outcome = Result<Found, Failure>;

impl Failure {
    /// Creates a failure of usage or input (exit 2).
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Self::Input(error.into())
    }

    /// Creates a fault (exit 3).
    pub fn fault(error: impl Into<anyhow::Error>) -> Self {
        Self::Fault(error.into())
    }

    /// Returns the process's exit code.
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

/// Formats an error and its causes on one line without repetition: an error whose message includes
/// its cause would otherwise print it twice.
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
/// A reader that closes our stdout (`ringfence drops | head`) has seen enough, so a broken pipe is
/// no failure.
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
