//! What the machine must offer before anything is loaded.

use std::fs;
use std::path::{Path, PathBuf};

use aya::util::KernelVersion;
use nix::sys::statfs::{FsType, statfs};
use ringfence_ebpf::abi::ABI_VERSION;

use super::error::DatapathError;

/// Capabilities by bit number in `CapEff` (linux/capability.h).
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// What the programs need: their newest helper, `bpf_ktime_get_coarse_ns`, is of
/// 5.11, and 5.15 is the oldest release since that somebody keeps. Linux 6.1 is the
/// oldest on which they are tested (`cargo xtask kernels`); an older verifier may
/// refuse them, which ends the agent before it attaches anything.
const OLDEST: KernelVersion = KernelVersion::new(5, 15, 0);

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// Object, kernel, privilege and bpffs, in this order: the first that is
/// missing is the one to mend.
pub(super) fn check(object: &[u8], pin_dir: &Path) -> Result<(), DatapathError> {
    if object.is_empty() {
        return Err(DatapathError::NoObject);
    }
    let new_enough = KernelVersion::current().is_ok_and(|version| version >= OLDEST);
    if !new_enough {
        return Err(DatapathError::KernelTooOld { found: release() });
    }
    privilege()?;
    bpffs(pin_dir)
}

/// The folder of this ABI version, made if need be.
pub(super) fn folder(pin_dir: &Path) -> Result<PathBuf, DatapathError> {
    let folder = pin_dir.join(format!("v{ABI_VERSION}"));
    make(&folder)?;
    make(&folder.join("links"))?;
    Ok(folder)
}

fn make(folder: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(folder).map_err(|source| DatapathError::File {
        operation: "creating",
        path: folder.to_owned(),
        source,
    })
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "(unknown)".to_owned(), |text| text.trim().to_owned())
}

fn privilege() -> Result<(), DatapathError> {
    let path = Path::new("/proc/self/status");
    let status = fs::read_to_string(path).map_err(|source| DatapathError::File {
        operation: "reading",
        path: path.to_owned(),
        source,
    })?;
    let missing = missing(&status);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(DatapathError::NoPrivilege {
            missing: missing.join(", "),
        })
    }
}

/// Which capabilities a `/proc/*/status` lacks. CAP_SYS_ADMIN is for entering
/// the pods' network namespaces.
fn missing(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect()
}

/// The pin directory may not exist yet: then its nearest ancestor counts.
pub(super) fn bpffs(pin_dir: &Path) -> Result<(), DatapathError> {
    let existing = pin_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let fs = statfs(existing).map_err(|errno| DatapathError::File {
        operation: "looking at the filesystem of",
        path: existing.to_owned(),
        source: errno.into(),
    })?;
    if fs.filesystem_type() == BPF_FS {
        return Ok(());
    }
    let mount = if pin_dir.starts_with("/sys/fs/bpf") {
        Path::new("/sys/fs/bpf")
    } else {
        pin_dir
    };
    Err(DatapathError::NoBpffs {
        path: pin_dir.to_owned(),
        mount: mount.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing("CapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(missing("CapEff:\t0000008000201000\n"), ["CAP_PERFMON"]);
        assert_eq!(missing("").len(), CAPABILITIES.len());
    }

    #[test]
    fn a_build_without_the_bpf_object_says_how_to_get_one() {
        let error = check(&[], Path::new("/sys/fs/bpf/ringfence")).expect_err("no object");
        assert!(error.to_string().contains("cargo xtask build"), "{error}");
    }

    #[test]
    fn a_pin_directory_off_bpffs_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = bpffs(&dir.path().join("pins")).expect_err("tmp is no bpffs");
        assert!(error.to_string().contains("mount -t bpf bpf"), "{error}");
    }
}
