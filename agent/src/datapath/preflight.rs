//! Checks the requirements on the machine before anything is loaded.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aya::util::KernelVersion;
use nix::sys::statfs::{FsType, statfs};
use ringfence_ebpf::abi::ABI_VERSION;

use super::error::DatapathError;

/// Capabilities by bit number in `CapEff` (linux/capability.h).
const CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// `setns` requires this as well.
const ENTERING: (u32, &str) = (21, "CAP_SYS_ADMIN");

/// The newest helper that the programs use, `bpf_ktime_get_coarse_ns`, dates from 5.11, and 5.15
/// is the oldest release since then that is still maintained. Linux 6.1 is the oldest release on
/// which they are tested (`cargo xtask kernels`); an older verifier may reject them, which ends
/// the agent before it attaches anything.
const OLDEST: KernelVersion = KernelVersion::new(5, 15, 0);

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// Checks object, kernel version, capabilities and bpffs, in this order: the first failure is the
/// one to fix. `enters` is whether the agent enters network namespaces.
pub(super) fn check(object: &[u8], pin_dir: &Path, enters: bool) -> Result<(), DatapathError> {
    if object.is_empty() {
        return Err(DatapathError::NoObject);
    }
    let new_enough = KernelVersion::current().is_ok_and(|version| version >= OLDEST);
    if !new_enough {
        return Err(DatapathError::KernelTooOld { found: release() });
    }
    privilege(enters)?;
    bpffs(pin_dir)
}

/// Returns the folder of this ABI version, creating it if necessary. It and its parents from
/// `pin_dir` down are accessible to the agent only: anyone who can open a pin can change the
/// policy in force.
pub(super) fn folder(pin_dir: &Path) -> Result<PathBuf, DatapathError> {
    let folder = place(pin_dir);
    for one in [pin_dir, &folder, &folder.join("links")] {
        make(one).map_err(|source| DatapathError::File {
            operation: "creating",
            path: one.to_owned(),
            source,
        })?;
        own(one)?;
    }
    Ok(folder)
}

/// Returns the folder of this ABI version.
pub(super) fn place(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("v{ABI_VERSION}"))
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Rejects a folder into which other users may have put pins, and removes others' access from one
/// of our own.
fn own(folder: &Path) -> Result<(), DatapathError> {
    let failed = |operation| {
        move |source| DatapathError::File {
            operation,
            path: folder.to_owned(),
            source,
        }
    };
    let meta = fs::metadata(folder).map_err(failed("looking at"))?;
    if let Some(fault) = fault(meta.uid(), meta.mode(), nix::unistd::geteuid().as_raw()) {
        return Err(DatapathError::NotOurs {
            path: folder.to_owned(),
            fault,
        });
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))
            .map_err(failed("setting the mode of"))?;
        tracing::info!("{} is now for its owner alone", folder.display());
    }
    Ok(())
}

/// Returns why pins in a folder with this owner and mode can't be trusted, if so; `own` is our own
/// user id.
fn fault(owner: u32, mode: u32, own: u32) -> Option<String> {
    if owner != 0 && owner != own {
        return Some(format!("it belongs to user {owner}"));
    }
    let is_open = mode & 0o022 != 0;
    is_open.then(|| format!("others may write in it (mode {:o})", mode & 0o7777))
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "(unknown)".to_owned(), |text| text.trim().to_owned())
}

fn privilege(enters: bool) -> Result<(), DatapathError> {
    let path = Path::new("/proc/self/status");
    let status = fs::read_to_string(path).map_err(|source| DatapathError::File {
        operation: "reading",
        path: path.to_owned(),
        source,
    })?;
    let missing = missing(&status, enters);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(DatapathError::NoPrivilege {
            missing: missing.join(", "),
        })
    }
}

/// Returns the capabilities missing from a `/proc/*/status`.
fn missing(status: &str, enters: bool) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let entering = enters.then_some(ENTERING);
    let needed = CAPABILITIES.iter().chain(&entering);
    needed
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect()
}

/// Checks that the pin directory is on a bpffs. If it doesn't exist yet, its nearest existing
/// ancestor is checked.
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
        assert_eq!(
            missing("CapEff:\t000001ffffffffff\n", true),
            Vec::<&str>::new()
        );
        assert_eq!(
            missing("CapEff:\t0000008000001000\n", false),
            ["CAP_PERFMON"]
        );
        assert_eq!(missing("", false).len(), CAPABILITIES.len());
        let all = "CapEff:\t000000c000001000\n";
        assert_eq!(missing(all, false), Vec::<&str>::new());
        assert_eq!(missing(all, true), ["CAP_SYS_ADMIN"]);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    #[test]
    fn the_pin_directory_is_for_its_owner_alone_and_an_older_one_becomes_so() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pins = dir.path().join("a/pins");
        for before in [None, Some(0o755), Some(0o700)] {
            if let Some(mode) = before {
                fs::set_permissions(&pins, Permissions::from_mode(mode)).expect("chmod");
            }
            let folder = folder(&pins).expect("a folder");
            for one in [&pins, &folder, &folder.join("links")] {
                assert_eq!(mode(one), 0o700, "{}", one.display());
            }
        }
    }

    #[test]
    fn a_pin_directory_that_others_may_write_in_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        for open in [0o777, 0o1777, 0o775] {
            fs::set_permissions(dir.path(), Permissions::from_mode(open)).expect("chmod");
            let error = folder(dir.path())
                .expect_err("others may write")
                .to_string();
            let path = dir.path().display().to_string();
            for word in [&*path, "others may write in it", "--pin-dir"] {
                assert!(error.contains(word), "{error}");
            }
            assert_eq!(mode(dir.path()), open);
            assert!(!dir.path().join(format!("v{ABI_VERSION}")).exists());
        }
    }

    #[test]
    fn a_pin_directory_of_another_user_is_refused() {
        assert_eq!(fault(0, 0o700, 0), None);
        assert_eq!(
            fault(0, 0o755, 1000),
            None,
            "root's, seen by an agent of another"
        );
        assert_eq!(fault(1000, 0o700, 1000), None);
        let others = fault(1000, 0o700, 0).expect("another user's");
        assert!(others.contains("user 1000"), "{others}");
    }

    #[test]
    fn a_build_without_the_bpf_object_says_how_to_get_one() {
        let error = check(&[], Path::new("/sys/fs/bpf/ringfence"), false).expect_err("no object");
        assert!(error.to_string().contains("cargo xtask build"), "{error}");
    }

    #[test]
    fn a_pin_directory_off_bpffs_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = bpffs(&dir.path().join("pins")).expect_err("tmp is no bpffs");
        assert!(error.to_string().contains("mount -t bpf bpf"), "{error}");
    }
}
