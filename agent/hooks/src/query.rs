//! Lists the programs on a tcx hook by a direct system call. aya's query also opens every
//! program by its id, which requires CAP_SYS_ADMIN; the ids alone require only CAP_NET_ADMIN
//! (`bpf_prog_query`). Linux 6.6 or later.

use std::io;

use aya::programs::TcAttachType;
use aya::programs::loaded_programs;
use nix::libc::{SYS_bpf, syscall};

/// `BPF_PROG_QUERY` of `linux/bpf.h`.
const PROG_QUERY: u32 = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;
/// `BPF_MPROG_MAX` of `kernel/bpf/mprog.h`: the most programs that a hook can have.
const MOST: usize = 64;

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

/// Returns the ids of the programs on one hook of a device, in the order in which they run.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `ENODEV` if the device is gone.
pub fn programs(ifindex: u32, attach_type: TcAttachType) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        target: ifindex,
        attach_type: match attach_type {
            TcAttachType::Egress => EGRESS,
            _ => INGRESS,
        },
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: the command reads and writes `query`, whose size is passed to it, and writes at
    // most `count` ids to `ids`; both outlive the call.
    let done = unsafe { syscall(SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids[..query.count.min(MOST as u32) as usize].to_vec())
}

/// Returns the name of a loaded program, if this process may query it (CAP_SYS_ADMIN).
pub fn name(id: u32) -> Option<String> {
    let mut all = loaded_programs().map_while(Result::ok);
    let found = all.find(|program| program.id() == id)?;
    found.name_as_str().map(str::to_owned)
}
