//! Checks the sizes of files, the dependencies of a package, and required documents.

use super::File;

/// Maximum number of lines of a source file.
const LONGEST: usize = 400;

/// Files that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[(
    "ebpf/src/abi.rs",
    "every type that crosses the kernel border, in one place to be read as a whole",
)];

/// Packages that a pure package must not depend on.
const IMPURE: &[&str] = &["aya", "axum", "hyper", "k8s-openapi", "kube", "tokio"];

/// Manifests of the pure packages.
const PURE: &[&str] = &["agent/api/Cargo.toml", "agent/policy/Cargo.toml"];
const ABI: &str = "ebpf/src/abi.rs";
const REASONS: &str = "docs/reasons.md";

/// Reports a source file that is too long.
pub(super) fn check_length(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    let excepted = LONG.iter().any(|(name, _)| *name == file.name);
    (file.name.ends_with(".rs") && lines > LONGEST && !excepted)
        .then(|| format!("{}: {lines} lines, more than {LONGEST}", file.name))
}

/// Runs the checks that need more than one file.
pub(super) fn check_whole(files: &[File]) -> Vec<String> {
    let text = |name: &str| {
        let mut files = files.iter();
        files
            .find(|file| file.name == name)
            .map_or("", |file| &file.text)
    };
    let mut breaches = Vec::new();
    for name in ["CHANGELOG.md", "LICENSE", "README.md", "ARCHITECTURE.md"] {
        if text(name).is_empty() {
            breaches.push(format!("{name} is missing"));
        }
    }
    for pure in PURE {
        let impure = dependencies(text(pure)).into_iter().filter(is_impure);
        breaches.extend(impure.map(|name| format!("{pure}: the pure package depends on {name}")));
    }
    for reason in reasons(text(ABI)) {
        if !text(REASONS).contains(&format!("`{reason}`")) {
            breaches.push(format!("{REASONS}: the reason `{reason}` isn't documented"));
        }
    }
    breaches
}

fn is_impure(name: &&str) -> bool {
    let mut impure = IMPURE.iter();
    impure.any(|impure| name == impure || name.starts_with(&format!("{impure}-")))
}

/// Returns the names in the dependency tables of a Cargo.toml.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            inside = table.contains("dependencies");
        } else if inside && let Some(end) = line.find(['=', '.', ' ']) {
            names.push(line[..end].trim_matches('"'));
        }
    }
    names
}

/// Returns the metric labels from the lines `Name = 1 "word",` of the macro call.
fn reasons(abi: &str) -> Vec<&str> {
    let Some(list) = abi.split("\nreasons! {").nth(1) else {
        return Vec::new();
    };
    let list = list.split("\n}").next().unwrap_or_default();
    let lines = list
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.filter_map(|line| line.split('"').nth(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn a_source_file_of_more_than_400_lines_is_a_breach() {
        assert!(check_length(&file("agent/src/a.rs", &"\n".repeat(400))).is_none());
        assert!(check_length(&file("agent/src/a.rs", &"\n".repeat(401))).is_some());
        assert!(check_length(&file("Cargo.lock", &"\n".repeat(4000))).is_none());
    }

    #[test]
    fn a_pure_package_may_not_depend_on_what_does_io() {
        let manifest = "[dependencies]\nserde.workspace = true\nkube = \"5\"\n[lints]\naya = 1\n";
        for pure in PURE {
            let found = check_whole(&[file(pure, manifest)]);
            let has = |end: &str| found.iter().any(|breach| breach.ends_with(end));
            assert!(has("depends on kube"));
            assert!(!has("depends on aya"));
        }
    }

    #[test]
    fn every_reason_of_a_drop_is_documented() {
        let abi = "\nreasons! {\n    /// \"Why\".\n    Policy = 1 \"policy\",\n    Vlan = 2 \"vlan\",\n}\n";
        assert_eq!(reasons(abi), ["policy", "vlan"]);
        let found = check_whole(&[
            file(ABI, abi),
            file(REASONS, "`policy`: no rule allows it\n"),
        ]);
        assert!(found.contains(&format!("{REASONS}: the reason `vlan` isn't documented")));
        assert!(!found.iter().any(|breach| breach.contains("`policy`")));
    }
}
