//! A guest's initramfs: a cpio archive of a prepared folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::build::Binaries;
use super::fetch::Kernel;

/// Writes the initramfs. It isn't compressed: an emulated processor takes longer to
/// decompress than to read.
pub(super) fn write(to: &Path, kernel: &Kernel, binaries: &Binaries, init: &str) -> Result<()> {
    let folder = to.with_extension("folder");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    for name in ["bin", "modules"] {
        fs::create_dir_all(folder.join(name))?;
    }
    for (name, path) in &binaries.files {
        copy(path, &folder.join("bin").join(name))?;
    }
    for path in &binaries.libraries {
        let inside = path.strip_prefix("/").unwrap_or(path);
        copy(path, &folder.join(inside))?;
    }
    for (name, bytes) in &kernel.modules.files {
        fs::write(folder.join("modules").join(name), bytes)?;
    }
    fs::write(folder.join("init"), init)?;
    fs::set_permissions(folder.join("init"), fs::Permissions::from_mode(0o755))?;
    pack(&folder, to)?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // Follows symbolic links, so that the name in the guest is a file.
    fs::copy(from, to).with_context(|| format!("can't copy {}", from.display()))?;
    Ok(())
}

fn pack(folder: &Path, to: &Path) -> Result<()> {
    let mut names = String::new();
    list(folder, folder, &mut names)?;
    let mut child = Command::new("cpio")
        .args(["--create", "--quiet", "--format=newc", "--owner=0:0"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(File::create(to).with_context(|| format!("can't make {}", to.display()))?)
        .spawn()
        .context("can't start `cpio`")?;
    if let Some(mut stdin) = child.stdin.take() {
        // If cpio exits early, the pipe is closed; its exit status is more informative.
        let _ = stdin.write_all(names.as_bytes());
    }
    let status = child.wait()?;
    ensure!(status.success(), "cpio ended with {status}");
    Ok(())
}

/// Appends the paths in a folder, each folder before its content.
fn list(top: &Path, folder: &Path, names: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let inside = path.strip_prefix(top).unwrap_or(&path);
        names.push_str(&inside.to_string_lossy());
        names.push('\n');
        if path.is_dir() {
            list(top, &path, names)?;
        }
    }
    Ok(())
}
