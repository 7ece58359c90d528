//! The image, built as a user without a registry builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{deploy, output, static_binary, tool};

/// An image in a storage of its own; gone when dropped.
#[derive(Debug)]
pub struct Image {
    storage: PathBuf,
    /// Its files, as a container would see them.
    pub root: PathBuf,
    /// The configuration that a container gets: `Entrypoint`, `Cmd`.
    pub config: Value,
}

impl Image {
    /// Builds the stage that takes the static binary, below a folder.
    pub fn build(folder: &Path) -> Result<Self> {
        let storage = folder.join("images");
        let mut image = Self {
            storage,
            root: PathBuf::new(),
            config: Value::Null,
        };
        let binary = static_binary()?;
        let context = binary.parent().context("a binary without a folder")?;
        let mut build = image.buildah()?;
        build.args(["bud", "--isolation", "chroot", "--target", "prebuilt"]);
        build.args(["--tag", "ringfence", "--file"]);
        output(build.arg(deploy("Dockerfile")).arg(context))?;
        let inspected = output(
            image
                .buildah()?
                .args(["inspect", "--type", "image", "ringfence"]),
        )?;
        let mut inspected: Value = serde_json::from_str(&inspected)?;
        image.config = inspected["OCIv1"]["config"].take();
        let container = output(image.buildah()?.args(["from", "--pull-never", "ringfence"]))?;
        let root = output(image.buildah()?.args(["mount", container.trim()]))?;
        image.root = root.trim().into();
        ensure!(image.root.is_dir(), "no {}", image.root.display());
        Ok(image)
    }

    /// With storage by plain folders, which works on every filesystem and needs
    /// nothing unmounted.
    fn buildah(&self) -> Result<Command> {
        let mut command = tool("buildah")?;
        command.arg("--root").arg(self.storage.join("root"));
        command.arg("--runroot").arg(self.storage.join("run"));
        command.args(["--storage-driver", "vfs"]);
        Ok(command)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.storage) {
            eprintln!("can't remove {}: {error}", self.storage.display());
        }
    }
}
