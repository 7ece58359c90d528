//! The source of the programs to attach.

use aya::Ebpf;
use aya::programs::SchedClassifier;

use crate::{Hook, HookError};

/// Loaded programs, one per hook.
pub trait Programs {
    /// Returns the program of a hook.
    ///
    /// # Errors
    /// If there is none.
    fn of_hook(&mut self, hook: Hook) -> Result<&mut SchedClassifier, HookError>;
}

impl Programs for Ebpf {
    fn of_hook(&mut self, hook: Hook) -> Result<&mut SchedClassifier, HookError> {
        let name = hook.program();
        let operation = || format!("finding program {name}");
        let program = self.program_mut(name).ok_or_else(|| {
            let message = "the BPF object doesn't hold it; rebuild with `cargo xtask build`";
            HookError::said(operation(), message.to_owned())
        })?;
        program
            .try_into()
            .map_err(|error| HookError::program(operation(), &error))
    }
}
