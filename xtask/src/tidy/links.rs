//! Checks that the targets of relative links in documents exist.

use std::path::Path;

use super::File;

/// Returns the dead links of one file.
pub(super) fn check(file: &File, root: &Path) -> Vec<String> {
    if !file.name.ends_with(".md") {
        return Vec::new();
    }
    let folder = root.join(&file.name);
    let folder = folder.parent().unwrap_or(root);
    targets(&file.text)
        .into_iter()
        .filter(|(_, target)| !folder.join(target).exists())
        .map(|(line, target)| format!("{}:{line}: dead link to {target}", file.name))
        .collect()
}

/// Returns each `](target)` outside of code, with its line. Web links and anchors are
/// skipped.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for rest in prose.split("](").skip(1) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains(':') {
                found.push((number + 1, target.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;
    use crate::tidy::file;

    #[test]
    fn a_link_to_a_missing_file_is_a_breach() {
        let text = "See [this](Cargo.toml), [that](nowhere.md#part) and\n[web](https://x.y/z).\n";
        let found = check(&file("README.md", text), paths::root());
        assert_eq!(found, ["README.md:1: dead link to nowhere.md"]);
    }

    #[test]
    fn links_in_code_and_to_anchors_are_left_alone() {
        let text = "`[a](b)` [c](#d)\n```\n[e](f)\n```\n";
        assert!(check(&file("README.md", text), paths::root()).is_empty());
    }

    #[test]
    fn links_are_relative_to_their_document() {
        let text = "[up](../Cargo.toml)\n";
        assert!(check(&file("docs/x.md", text), paths::root()).is_empty());
    }
}
