//! The image contains the agent and the network plugin, and they need nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfence_tests::deployed::{Image, output, strings};

fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path);
        }
    }
}

#[test]
#[ignore = "needs root, buildah and the static binary: cargo xtask test"]
fn the_image_holds_agent_and_plugin_alone_and_they_run_there() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::build(folder.path()).unwrap();
    let mut found = BTreeSet::new();
    files(&image.root, &mut found);
    let binaries = ["bin/ringfence", "bin/ringfence-cni"];
    assert_eq!(found, binaries.map(|name| image.root.join(name)).into());
    assert_eq!(strings(&image.config["Entrypoint"]), ["/bin/ringfence"]);

    let mut inside = Command::new("chroot");
    inside
        .arg(&image.root)
        .args(["/bin/ringfence", "--version"]);
    let version = output(&mut inside).unwrap();
    assert_eq!(
        version.trim(),
        concat!("ringfence ", env!("CARGO_PKG_VERSION"))
    );
    let mut plugin = Command::new("chroot");
    plugin
        .arg(&image.root)
        .arg("/bin/ringfence-cni")
        .env("CNI_COMMAND", "VERSION");
    let spoken = output(&mut plugin).unwrap();
    assert!(spoken.contains("supportedVersions"), "{spoken}");
}
