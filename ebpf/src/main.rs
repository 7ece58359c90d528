//! The BPF programs: maps, hooks, and the tables of [`ringfence_ebpf::verdict`] implemented over
//! eBPF maps. All decisions are made by the library next to this file.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Packet fields are loaded by inline assembly. The compiler for BPF is a nightly, or is told to
// act as one.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bpf;

/// Empty on the host, so that `cargo clippy --workspace` works.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
