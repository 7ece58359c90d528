//! Why a program couldn't be attached or detached, with the remedy.

use std::io;
use std::path::{Path, PathBuf};

use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use nix::errno::Errno;

/// A failed operation on a hook.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A filter of another kind runs first, and ours can't be placed in front of it.
    #[error(
        "on {interface} the filter {other} runs before {program}, and what it accepts \
         isn't judged: give it another priority number than 1"
    )]
    Behind {
        /// Our program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// The filter.
        other: String,
    },
    /// The device has a qdisc that accepts no egress filters instead of clsact.
    #[error(
        "{interface} has a qdisc of kind `{kind}`, which takes no filters for egress: have \
         its owner use clsact instead (`tc qdisc del dev {interface} {kind}` removes it)"
    )]
    PlainIngress {
        /// The interface.
        interface: String,
        /// The qdisc's kind.
        kind: String,
    },
    /// The recorded filters can't be seen from this network namespace.
    #[error(
        "{} records filters in another network namespace (inode {inode}): run this inside it",
        folder.display()
    )]
    OtherNetns {
        /// The folder of records.
        folder: PathBuf,
        /// The namespace's inode.
        inode: u64,
    },
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Finding, attaching or replacing a program failed.
    #[error("{operation}: {message}")]
    Program {
        /// The operation, with the program or interface.
        operation: String,
        /// The cause, with the errno.
        message: String,
        /// The errno, if the kernel returned one.
        errno: Option<Errno>,
    },
}

impl HookError {
    /// Wraps an aya error from an operation on a program.
    pub fn program(operation: String, error: &ProgramError) -> Self {
        let errno = match error {
            ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
            _ => None,
        };
        Self::Program {
            operation,
            message: chain(error),
            errno: errno.map(Errno::from_raw),
        }
    }

    /// Wraps an aya error from an operation on a link.
    pub fn link(operation: String, error: &LinkError) -> Self {
        Self::said(operation, chain(error))
    }

    /// Wraps an error given as text.
    pub(crate) const fn said(operation: String, message: String) -> Self {
        Self::Program {
            operation,
            message,
            errno: None,
        }
    }

    /// Wraps an error from an operation on a file.
    pub(crate) fn file(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// Returns the kernel's errno, if it returned one.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Program { errno, .. } => *errno,
            _ => None,
        }
    }
}

/// Formats an error with all its causes: aya's Display hides the errno.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
