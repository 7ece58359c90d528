//! What the tests of `deploy/` take beside everything else: an image builder,
//! kustomize, the Kubernetes schemas, and a Prometheus to be scraped by.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{paths, setup, shell};

/// Programs, and Debian's package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("buildah", "buildah"),
    // Any since 1.21 knows components; Debian's does from release 13 on.
    ("kubectl", "kubernetes-client"),
    ("python3", "python3-venv"),
    ("runc", "runc"),
];
/// The package with the schemas, which go up to this version of Kubernetes.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

/// Finds what is needed and installs what is missing.
pub(crate) fn install() -> Result<()> {
    let missing = setup::missing_packages(PROGRAMS);
    if !missing.is_empty() {
        setup::install_packages(&missing)?;
    }
    prometheus()?;
    schemas()
}

/// Names and places, for `cargo xtask setup`.
pub(crate) fn found() -> Vec<(&'static str, PathBuf)> {
    let on_path = PROGRAMS.iter().map(|(program, _)| *program);
    on_path
        .map(|name| (name, paths::program(name).unwrap_or_default()))
        .chain([
            ("prometheus", prometheus_folder().join("usr/bin/prometheus")),
            ("schemas", python_folder().join("bin/kubernetes-validate")),
        ])
        .collect()
}

fn folder() -> PathBuf {
    paths::target().join("tools")
}

fn prometheus_folder() -> PathBuf {
    folder().join("prometheus")
}

fn python_folder() -> PathBuf {
    folder().join("python")
}

/// Unpacked, not installed: as it installs, Debian's package starts a server that
/// nobody asked for. The folder appears whole or not at all.
fn prometheus() -> Result<()> {
    let whole = prometheus_folder();
    if whole.join("usr/bin/promtool").exists() {
        return Ok(());
    }
    ensure!(
        setup::has_apt(),
        "the tests take Prometheus from Debian's package, and there is no apt here"
    );
    setup::refresh_lists();
    let (downloads, partial) = (folder().join("deb"), folder().join("partial"));
    for old in [&downloads, &partial, &whole] {
        remove(old)?;
    }
    fs::create_dir_all(&downloads)?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "download", "prometheus"]);
    shell::output(download.current_dir(&downloads))?;
    let deb = fs::read_dir(&downloads)?.next();
    let deb = deb.context("apt put no package of Prometheus there")??;
    shell::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(deb.path())
            .arg(&partial),
    )?;
    remove(&downloads)?;
    fs::rename(&partial, &whole).with_context(|| format!("can't write {}", whole.display()))
}

/// In an environment of its own, so that the machine's Python stays as it is.
fn schemas() -> Result<()> {
    let folder = python_folder();
    let wanted = folder.join(format!("with-{SCHEMAS}"));
    if wanted.exists() {
        return Ok(());
    }
    remove(&folder)?;
    let mut make = Command::new("python3");
    if shell::output(make.args(["-m", "venv"]).arg(&folder)).is_err() {
        // Debian keeps the module apart from the interpreter.
        setup::install_packages(&["python3-venv"])?;
        shell::output(&mut make)?;
    }
    let mut pip = Command::new(folder.join("bin/pip"));
    shell::output(pip.args(["install", "--quiet", SCHEMAS]))?;
    fs::write(&wanted, "").with_context(|| format!("can't write {}", wanted.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("can't remove {}: {error}", folder.display())
        }
        _ => Ok(()),
    }
}
