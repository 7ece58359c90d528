//! Runs a hook without traffic (`BPF_PROG_TEST_RUN`), for tests and benches: the loaded program on
//! the maps in force.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};

use super::Hook;
use super::error::{DatapathError, chain};
use super::{Datapath, load};

/// `TC_ACT_SHOT` (linux/pkt_cls.h).
const SHOT: u32 = 2;

/// Result of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Whether the frame passes to the next program.
    pub passes: bool,
    /// Mean time of one run, measured by the kernel's own loop.
    pub duration: Duration,
}

impl Datapath {
    /// Runs a hook on a frame (at least an Ethernet header) as if it passed through `ifindex`, an
    /// interface of the caller's network namespace.
    ///
    /// An `ingress_ifindex` of 0 means this node's own traffic; otherwise `seen` is whether a hook
    /// saw the packet come in on that device. The tag and the VLAN fields can't be set this way.
    /// Requires Linux 5.10 (context of test runs).
    ///
    /// # Errors
    /// Fails if the kernel rejects the frame or the interface.
    pub fn run(
        &mut self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        ingress_ifindex: u32,
        seen: bool,
        repeat: u32,
    ) -> Result<Run, DatapathError> {
        let error = |error| DatapathError::Program {
            operation: format!("running {}", hook.program()),
            message: chain(&error),
        };
        // The start of struct __sk_buff: mark at 8, ingress_ifindex at 36, ifindex at 40.
        let mut context = [0; 44];
        let mark = if seen { self.options.seen_mark } else { 0 };
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let result = load::program(self.links.ebpf(), hook.program())?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::new()
            })
            .map_err(error)?;
        Ok(Run {
            passes: result.return_value != SHOT,
            duration: result.duration,
        })
    }
}
