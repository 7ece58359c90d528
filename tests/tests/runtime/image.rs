//! The image of every sandbox, built from this machine's busybox.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::IMAGE;

/// Writes an image with only busybox, in the OCI layout.
pub(super) fn write(layout: &Path, script: &str) -> Result<()> {
    let root = layout.with_file_name("image-root");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(&blobs)?;
    fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
        .or_else(|_| fs::copy("/bin/busybox", root.join("bin/busybox")))
        .context("no busybox: `cargo xtask setup`")?;
    let layer = layout.with_file_name("layer.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&layer)
        .arg("."))?;
    let (layer, layer_size) = blob(&blobs, &fs::read(&layer)?)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sh", "-c", script]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    });
    let (config, config_size) = blob(&blobs, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config}"), "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{layer}"), "size": layer_size,
        }],
    });
    let (manifest, manifest_size) = blob(&blobs, manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"), "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": IMAGE},
        }],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        "{\"imageLayoutVersion\": \"1.0.0\"}",
    )?;
    Ok(())
}

/// Writes a blob. Returns its digest and its size.
fn blob(folder: &Path, bytes: &[u8]) -> Result<(String, usize)> {
    let file = folder.join("new");
    fs::write(&file, bytes)?;
    let sum = Command::new("sha256sum").arg(&file).output()?;
    let sum = String::from_utf8(sum.stdout)?;
    let digest = sum.split(' ').next().context("sha256sum")?.to_owned();
    fs::rename(&file, folder.join(&digest))?;
    Ok((digest, bytes.len()))
}

/// Runs a command to its end and fails unless it succeeds.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}
