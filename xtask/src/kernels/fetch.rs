//! Downloads Debian's kernels once. apt uses separate lists and a separate cache, so
//! that the machine's own sources stay unchanged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::modules::Modules;
use crate::setup::KEYRING;
use crate::{paths, shell};

/// Archives and suites that contain the kernels.
const SUITES: &[(&str, &str)] = &[
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
];
/// The mirror of Debian's archives, unless `RINGFENCE_DEBIAN_MIRROR` names another one.
const MIRROR: &str = "http://deb.debian.org";

/// An unpacked kernel.
pub(super) struct Kernel {
    /// The short version, as in 6.1.
    pub(super) name: &'static str,
    /// The release, as `uname -r` prints it.
    pub(super) release: String,
    /// The image to boot.
    pub(super) image: PathBuf,
    /// The modules that the guest inserts.
    pub(super) modules: Modules,
}

/// Returns the kernel of a package: the one downloaded earlier if there is one, else
/// the newest. To get a newer one, remove its folder below `target/kernels`.
pub(super) fn kernel(name: &'static str, package: &str) -> Result<Kernel> {
    let folder = paths::target().join("kernels").join(name);
    let root = folder.join("root");
    if !root.exists() {
        shell::step(&format!("fetch Debian's Linux {name}"), || {
            fetch(&folder, package)
        })?;
    }
    let release = only(&root.join("lib/modules"))?;
    Ok(Kernel {
        name,
        image: root.join("boot").join(format!("vmlinuz-{release}")),
        modules: Modules::collect(&root.join("lib/modules").join(&release))?,
        release,
    })
}

/// Downloads and unpacks a kernel; the folder `root` appears complete or not at all.
fn fetch(folder: &Path, package: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let apt = Apt::set_up(&paths::target().join("kernels/apt"))?;
    let depends = shell::output(apt.run("apt-cache").args(["depends", package]))?;
    let newest = depended(&depends)
        .with_context(|| format!("{package} depends on no kernel:\n{depends}"))?;
    for old in debs(folder)? {
        fs::remove_file(old)?;
    }
    shell::output(
        apt.run("apt-get")
            .args(["-q", "download", newest])
            .current_dir(folder),
    )?;
    let [deb] = &debs(folder)?[..] else {
        bail!("apt put no package into {}", folder.display());
    };
    let partial = folder.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    shell::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&partial))?;
    fs::rename(&partial, folder.join("root"))?;
    fs::remove_file(deb)?;
    Ok(())
}

/// apt with its state in a separate folder.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Writes the sources and downloads their lists.
    fn set_up(folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mirror = std::env::var("RINGFENCE_DEBIAN_MIRROR");
        let sources = sources(mirror.as_deref().unwrap_or(MIRROR));
        fs::write(folder.join("sources.list"), sources)?;
        // An empty status: the machine's installed packages don't count.
        fs::write(folder.join("status"), "")?;
        let place = |option: &str, path: &str| format!("{option}={}/{path}", folder.display());
        let apt = Self {
            options: vec![
                place("Dir::Etc::SourceList", "sources.list"),
                place("Dir::Etc::SourceParts", "none"),
                place("Dir::State::Lists", "lists"),
                place("Dir::State::Status", "status"),
                place("Dir::Cache", "cache"),
                // The user that apt would switch to has no permission to write here.
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Languages=none".to_owned(),
            ],
        };
        shell::output(apt.run("apt-get").args(["-q", "update"]))?;
        Ok(apt)
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

fn sources(mirror: &str) -> String {
    let line = |(archive, suite): &(&str, &str)| {
        format!("deb [arch=amd64 signed-by={KEYRING}] {mirror}/{archive} {suite} main\n")
    };
    SUITES.iter().map(line).collect()
}

/// Returns the first dependency in the output of `apt-cache depends`.
fn depended(depends: &str) -> Option<&str> {
    let mut lines = depends.lines();
    lines.find_map(|line| line.trim().strip_prefix("Depends: "))
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut debs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    Ok(debs)
}

/// Returns the name of the only entry in a folder.
fn only(folder: &Path) -> Result<String> {
    let names = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    let [name] = &names[..] else {
        bail!(
            "{} holds {} entries, not one",
            folder.display(),
            names.len()
        );
    };
    Ok(name.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_debian_signed_is_taken() {
        let sources = sources("http://mirror.test");
        assert_eq!(sources.lines().count(), SUITES.len());
        for line in sources.lines() {
            assert!(
                line.contains("signed-by=/usr/share/keyrings/debian-"),
                "{line}"
            );
            assert!(line.contains(" http://mirror.test/debian"), "{line}");
        }
    }

    #[test]
    fn the_kernel_is_what_its_package_depends_on() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n";
        assert_eq!(depended(depends), Some("linux-image-6.1.0-1-cloud-amd64"));
        assert_eq!(depended("linux-image-cloud-amd64\n"), None);
    }
}
