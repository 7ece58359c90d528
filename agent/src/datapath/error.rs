//! Failures of operations on the kernel, with the remedy.

use std::io;
use std::path::PathBuf;

use ringfence_hooks::HookError;

use super::catalog::MapName;
pub(super) use ringfence_hooks::chain;

/// An operation on the kernel's side failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The binary was built without the BPF object.
    #[error("this build carries no datapath: run `cargo xtask build`, or use a released binary")]
    NoObject,
    /// The running kernel is too old.
    #[error("Linux {found} is too old: the datapath needs 5.15 or newer; upgrade the node")]
    KernelTooOld {
        /// The version of the running kernel.
        found: String,
    },
    /// Capabilities are missing.
    #[error(
        "missing {missing}: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and \
         for --manifests with CAP_SYS_ADMIN"
    )]
    NoPrivilege {
        /// Names of the missing capabilities.
        missing: String,
    },
    /// The pin directory isn't on a bpffs.
    #[error(
        "{} is not on a BPF filesystem: mount one (`mount -t bpf bpf {}`), or point --pin-dir at one",
        path.display(), mount.display()
    )]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
        /// Where a bpffs would be mounted.
        mount: PathBuf,
    },
    /// Another process writes these maps.
    #[error(
        "another agent holds {}: stop it, or give this one a --pin-dir of its own",
        folder.display()
    )]
    Locked {
        /// The directory below the pin directory for this ABI version.
        folder: PathBuf,
    },
    /// All endpoint ids have been assigned.
    #[error("endpoint ids are used up: run `ringfence uninstall` and start again")]
    NoId,
    /// A pinned map has a different layout than this build requires.
    #[error(
        "pinned map {map} has {found}, this build wants {wanted}: \
         run `ringfence uninstall --pin-dir {}` and start again",
        pin_dir.display()
    )]
    Shape {
        /// The map.
        map: MapName,
        /// The layout of the pinned map.
        found: String,
        /// The required layout.
        wanted: String,
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// A hook's program couldn't be attached or detached.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Other users may have put pins into the agent's directory.
    #[error(
        "{}: {fault}: what is pinned there may be theirs. Look into it and remove it \
         (`ringfence uninstall` removes all pins), or give another --pin-dir",
        path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the folder.
        fault: String,
    },
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A map operation failed.
    #[error("{operation} map {map}: {message}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map.
        map: MapName,
        /// The cause, with the errno.
        message: String,
    },
    /// A map is full.
    #[error("map {map} is full ({capacity} entries): what was in force stays in force")]
    MapFull {
        /// The map.
        map: MapName,
        /// Its capacity.
        capacity: u32,
    },
    /// No slot that the endpoint may use is free.
    #[error("no endpoint slot is free for {interface} (index {ifindex}): it stays closed")]
    NoSlot {
        /// The name of the interface.
        interface: String,
        /// The index of the interface.
        ifindex: u32,
    },
    /// A program couldn't be loaded, attached or run.
    #[error("{operation}: {message}")]
    Program {
        /// What was tried, and on which program or interface.
        operation: String,
        /// The cause, with the errno.
        message: String,
    },
}
