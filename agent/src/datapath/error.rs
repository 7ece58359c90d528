//! What can go wrong at the kernel's border, with the remedy.

use std::io;
use std::path::PathBuf;

use ringfence_hooks::HookError;
pub(super) use ringfence_hooks::chain;

/// An operation on the kernel's side failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The binary was built without the BPF object.
    #[error("this build carries no datapath: run `cargo xtask build`, or use a released binary")]
    NoObject,
    /// Linux is too old.
    #[error("Linux {found} is too old: the datapath needs 5.15 or newer; upgrade the node")]
    KernelTooOld {
        /// What runs.
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
        /// Where one would be mounted.
        mount: PathBuf,
    },
    /// Another process writes these maps.
    #[error(
        "another agent holds {}: stop it, or give this one a --pin-dir of its own",
        folder.display()
    )]
    Locked {
        /// The pin directory of this ABI version.
        folder: PathBuf,
    },
    /// All endpoint ids have been given.
    #[error("endpoint ids are used up: run `ringfence uninstall` and start again")]
    NoId,
    /// A pinned map has another shape than this build wants.
    #[error(
        "pinned map {map} has {found}, this build wants {wanted}: \
         run `ringfence uninstall --pin-dir {}` and start again",
        pin_dir.display()
    )]
    Shape {
        /// The map.
        map: &'static str,
        /// What is pinned.
        found: String,
        /// What is wanted.
        wanted: String,
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// A hook's program couldn't be attached or let go.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Others may have put pins where the agent's are.
    #[error(
        "{}: {fault}: what is pinned there may be theirs. Look into it and remove it \
         (`ringfence uninstall` removes all pins), or give another --pin-dir",
        path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A file operation.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A map operation.
    #[error("{operation} map {map}: {message}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// On what.
        map: &'static str,
        /// Why not, with the errno.
        message: String,
    },
    /// A map has no room.
    #[error("map {map} is full ({capacity} entries): what was in force stays in force")]
    MapFull {
        /// The map.
        map: &'static str,
        /// Its capacity.
        capacity: u32,
    },
    /// All endpoint slots in reach are taken.
    #[error("no endpoint slot is free for {interface} (index {ifindex}): it stays closed")]
    NoSlot {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
    },
    /// Loading or attaching a program.
    #[error("{operation}: {message}")]
    Program {
        /// What was tried, on which program or interface.
        operation: String,
        /// Why not, with the errno.
        message: String,
    },
}
