//! What the verifier reported about the programs, for the kernel matrix: how close a program is to
//! the limit of a million instructions differs between kernels.

use super::error::{DatapathError, chain};
use super::{Datapath, load};
use ringfence_hooks::PROGRAMS;

/// One loaded program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Name of the program in the object.
    pub program: &'static str,
    /// Number of instructions that the verifier processed, 1,000,000 at most
    /// (`BPF_COMPLEXITY_LIMIT_INSNS`). Linux 5.16; none on older kernels.
    pub instructions: Option<u32>,
}

impl Datapath {
    /// Returns all loaded programs.
    ///
    /// # Errors
    /// Fails if the kernel doesn't provide the information.
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
