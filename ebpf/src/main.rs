//! The BPF programs: maps, hooks, and the tables of [`ringfence_ebpf::verdict`]
//! over eBPF maps. All that decides lies in the library beside this file.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod bpf;

/// On the host this binary is empty, so that `cargo clippy --workspace` works.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
