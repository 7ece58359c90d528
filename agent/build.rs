//! Embeds the BPF object that `cargo xtask build-ebpf` left behind.
//!
//! Without one the binary still builds, for explain and matrix need no datapath;
//! `ringfence agent` then says that this build carries none.

use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let has = |feature| env::var_os(feature).is_some();
    let object = match (
        has("CARGO_FEATURE_OTHER_CONNECTIONS"),
        has("CARGO_FEATURE_OTHER_POLICY"),
    ) {
        (true, _) => "other-connections.o",
        (false, true) => "other-policy.o",
        (false, false) => "ringfence.o",
    };
    if object != "ringfence.o" && env::var("PROFILE")? == "release" {
        return Err("a release has the layouts of its version: no `other-…` feature".into());
    }
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../target/bpf");
    let object = folder.join(object);
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = if object.exists() {
        fs::read(&object)?
    } else {
        // Watch the folder, so that the object is noticed once it is there.
        if let Some(folder) = object.parent().filter(|folder| folder.exists()) {
            println!("cargo:rerun-if-changed={}", folder.display());
        }
        Vec::new()
    };
    fs::write(Path::new(&env::var("OUT_DIR")?).join("ringfence.o"), bytes)?;
    Ok(())
}
