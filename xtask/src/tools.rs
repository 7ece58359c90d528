//! Additional tools for the tests of `deploy/`: an image builder, kustomize, the
//! Kubernetes schemas, a Prometheus that scrapes the agent, and a container runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{paths, setup, shell};

/// Programs, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("buildah", "buildah"),
    // Supports kustomize components since 1.21; Debian's does from release 13 on.
    ("kubectl", "kubernetes-client"),
    ("python3", "python3-venv"),
    ("runc", "runc"),
];
/// Packages that are unpacked rather than installed, since installing them starts an
/// unwanted server. Each is listed with a program whose presence shows it is unpacked.
const UNPACKED: &[(&str, &str)] = &[
    ("prometheus", "usr/bin/promtool"),
    ("containerd", "usr/bin/containerd"),
];
/// The package with the schemas, which cover Kubernetes up to this version.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

/// Finds the required tools and installs the missing ones.
pub(crate) fn install() -> Result<()> {
    let missing = setup::missing_packages(PROGRAMS);
    if !missing.is_empty() {
        setup::install_packages(&missing)?;
    }
    for (package, program) in UNPACKED {
        unpack(package, program)?;
    }
    schemas()
}

/// Returns the tools' names and paths, for `cargo xtask setup`.
pub(crate) fn found() -> Vec<(&'static str, PathBuf)> {
    let on_path = PROGRAMS.iter().map(|(program, _)| *program);
    on_path
        .map(|name| (name, paths::program(name).unwrap_or_default()))
        .chain([
            ("prometheus", folder().join("prometheus/usr/bin/prometheus")),
            ("containerd", folder().join("containerd/usr/bin/containerd")),
            ("schemas", python_folder().join("bin/kubernetes-validate")),
        ])
        .collect()
}

fn folder() -> PathBuf {
    paths::target().join("tools")
}

fn python_folder() -> PathBuf {
    folder().join("python")
}

/// Downloads and unpacks a package; its folder appears complete or not at all.
fn unpack(package: &str, program: &str) -> Result<()> {
    let whole = folder().join(package);
    if whole.join(program).exists() {
        return Ok(());
    }
    ensure!(
        setup::has_apt(),
        "the tests take {package} from Debian's package, and there is no apt here"
    );
    setup::refresh_lists();
    let (downloads, partial) = (folder().join("deb"), folder().join("partial"));
    for old in [&downloads, &partial, &whole] {
        remove(old)?;
    }
    fs::create_dir_all(&downloads)?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "download", package]);
    shell::output(download.current_dir(&downloads))?;
    let deb = fs::read_dir(&downloads)?.next();
    let deb = deb.with_context(|| format!("apt put no package {package} there"))??;
    shell::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(deb.path())
            .arg(&partial),
    )?;
    remove(&downloads)?;
    fs::rename(&partial, &whole).with_context(|| format!("can't write {}", whole.display()))
}

/// Installs the schemas in a virtual environment, so that the machine's Python stays
/// unchanged.
fn schemas() -> Result<()> {
    let folder = python_folder();
    let wanted = folder.join(format!("with-{SCHEMAS}"));
    if wanted.exists() {
        return Ok(());
    }
    remove(&folder)?;
    let mut make = Command::new("python3");
    if shell::output(make.args(["-m", "venv"]).arg(&folder)).is_err() {
        // Debian packages the module separately from the interpreter.
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
