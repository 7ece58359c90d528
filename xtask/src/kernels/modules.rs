//! The kernel modules that the tests need, in an order in which they can be inserted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// The modules that the test networks use. `crc32c_generic` is requested by name at
/// run time: no module declares a dependency on it.
const WANTED: &[&str] = &[
    "crc32c_generic",
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
];

/// Modules in the order of their insertion.
pub(super) struct Modules {
    /// Each module's file name in the guest, and its bytes.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Modules {
    /// Collects the modules that a kernel has as files; built-in ones have none.
    pub(super) fn collect(folder: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        find(folder, &mut found)?;
        ensure!(!found.is_empty(), "no modules in {}", folder.display());
        let mut files = Vec::new();
        for name in WANTED {
            insert(name, &found, &mut files)?;
        }
        Ok(Self { files })
    }

    /// Returns the file names in the guest.
    pub(super) fn names(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Adds a module after its dependencies. A module never depends on itself.
fn insert(
    name: &str,
    found: &BTreeMap<String, PathBuf>,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let file = format!("{name}.ko");
    let Some(path) = found.get(name) else {
        return Ok(());
    };
    if files.iter().any(|(known, _)| *known == file) {
        return Ok(());
    }
    let bytes = read(path)?;
    for needed in dependencies(&bytes) {
        insert(&needed, found, files)?;
    }
    files.push((file, bytes));
    Ok(())
}

/// Finds every module below a folder, by its name as the kernel writes it.
fn find(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, found)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((name, "ko" | "ko.xz")) = name.split_once('.')
        {
            found.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let mut command = Command::new("xz");
        let output = command.arg("-dc").arg(path).output();
        let output = output.with_context(|| format!("can't start `{}`", shell::text(&command)))?;
        ensure!(output.status.success(), "can't unpack {}", path.display());
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

/// Parses the entry `depends=a,b` of a module's `.modinfo` section, whose entries end
/// with a zero byte.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0);
    let value = String::from_utf8_lossy(&value[..end.unwrap_or(0)]);
    let names = value.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_depends_on_comes_before_it_and_once() {
        let dir = std::env::temp_dir().join(format!("ringfence-modules-{}", std::process::id()));
        let write = |path: &str, depends: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&dir)).expect("a folder");
            fs::write(path, format!("ELF\0license=GPL\0depends={depends}\0x")).expect("a module");
        };
        write("net/bridge/bridge.ko", "stp,llc");
        write("net/bridge/br_netfilter.ko", "bridge");
        write("net/llc/llc.ko", "");
        write("net/802/stp.ko", "llc");
        write("sound/snd-other.ko", "");
        let modules = Modules::collect(&dir).expect("modules");
        fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(
            modules.names(),
            ["llc.ko", "stp.ko", "bridge.ko", "br_netfilter.ko"]
        );
    }

    #[test]
    fn no_entry_and_an_empty_one_mean_no_dependency() {
        assert!(dependencies(b"ELF").is_empty());
        assert!(dependencies(b"ELF\0depends=\0name=veth\0").is_empty());
        assert_eq!(dependencies(b"\0depends=nf-a,b\0"), ["nf_a", "b"]);
    }
}
