//! Embeds the BPF object that `cargo xtask build-ebpf` left behind.
//!
//! Without one the binary still builds, for explain and matrix need no datapath;
//! `ringfence agent` then says that this build carries none.

use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let object = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../target/bpf/ringfence.o");
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
