//! House rules that a program can check.

mod layout;
mod links;
mod unsafe_code;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, shell};

/// One file of the checkout.
pub(crate) struct File {
    /// Path from the top of the checkout, with slashes.
    pub(crate) name: String,
    /// Content of the file.
    pub(crate) text: String,
}

/// Checks all rules and lists every breach.
pub(crate) fn run() -> Result<()> {
    let files = files()?;
    let names = words::Names::of(&files);
    let mut breaches = Vec::new();
    for file in &files {
        breaches.extend(unsafe_code::check(file));
        breaches.extend(layout::check_length(file));
        breaches.extend(links::check(file, paths::root()));
        breaches.extend(words::check(file, &names));
    }
    breaches.extend(layout::check_whole(&files));
    for breach in &breaches {
        println!("    {breach}");
    }
    match breaches.len() {
        0 => Ok(()),
        1 => bail!("one house rule is broken (`cargo xtask tidy`)"),
        many => bail!("{many} house rules are broken (`cargo xtask tidy`)"),
    }
}

/// Reads every text file that git tracks or would add.
fn files() -> Result<Vec<File>> {
    let root = paths::root();
    let mut git = Command::new("git");
    git.current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let names = match shell::output(&mut git) {
        Ok(list) => list.split_terminator('\0').map(str::to_owned).collect(),
        // A source archive has no git.
        Err(_) => walk(root, root)?,
    };
    let read = |name: String| {
        // A missing file is deleted but not yet committed; a file that isn't UTF-8 isn't
        // checked.
        let text = fs::read_to_string(root.join(&name)).ok()?;
        Some(File { name, text })
    };
    Ok(names.into_iter().filter_map(read).collect())
}

fn walk(dir: &Path, root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("can't list {}", dir.display()))?;
    for entry in entries {
        let path: PathBuf = entry?.path();
        let hidden = |part: &str| [".git", "target", "node_modules"].contains(&part);
        if path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(hidden)
        {
            continue;
        }
        if path.is_dir() {
            names.extend(walk(&path, root)?);
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) fn file(name: &str, text: &str) -> File {
    File {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}
