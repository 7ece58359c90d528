//! What the verifier said of the programs, for the kernel matrix: how near a
//! program is to the limit of a million instructions differs from kernel to kernel.

use super::error::{DatapathError, chain};
use super::{Datapath, load};
use ringfence_hooks::PROGRAMS;

/// One loaded program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Its name in the object.
    pub program: &'static str,
    /// Instructions that the verifier walked, of 1,000,000 at most
    /// (`BPF_COMPLEXITY_LIMIT_INSNS`). Linux 5.16; none before.
    pub instructions: Option<u32>,
}

impl Datapath {
    /// All programs, loaded.
    ///
    /// # Errors
    /// If the kernel doesn't tell.
    pub fn verified(&mut self) -> Result<Vec<Verified>, DatapathError> {
        let ask = |program| {
            let info = load::program(self.links.ebpf(), program)?.info();
            let info = info.map_err(|error| DatapathError::Program {
                operation: format!("asking what the verifier walked of {program}"),
                message: chain(&error),
            })?;
            Ok(Verified {
                program,
                instructions: info.verified_instruction_count(),
            })
        };
        PROGRAMS.into_iter().map(ask).collect()
    }
}
