//! The BPF programs: maps, hooks, and the tables of [`ringfence_ebpf::verdict`]
//! over eBPF maps. All that decides lies in the library beside this file.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Loads of packet fields: the compiler for BPF is a nightly, or takes itself for one.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bpf;

/// On the host this binary is empty, so that `cargo clippy --workspace` works.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
