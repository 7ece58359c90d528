//! Checks that `unsafe` is used only where it must be, with a reason why it is sound.

use super::File;

/// Paths in which `unsafe` is allowed.
const ALLOWED: &[&str] = &[
    "agent/hooks/src/query.rs",
    "agent/src/datapath/",
    "ebpf/src/abi.rs",
    "ebpf/src/bpf/",
    "ebpf/src/main.rs",
    "ebpf/src/shared.rs",
];

/// Maximum distance of an `unsafe` from the end of its reason above, in lines.
const REACH: usize = 3;

/// Returns the breaches in one file.
pub(super) fn check(file: &File) -> Vec<String> {
    if !file.name.ends_with(".rs") {
        return Vec::new();
    }
    let allowed = ALLOWED.iter().any(|place| file.name.starts_with(place));
    let lines: Vec<&str> = file.text.lines().collect();
    let mut breaches = Vec::new();
    for index in (0..lines.len()).filter(|index| is_unsafe(lines[*index])) {
        let at = format!("{}:{}", file.name, index + 1);
        if !allowed {
            breaches.push(format!("{at}: `unsafe` outside of the datapath's edges"));
        } else if !has_reason(&lines[..=index]) {
            breaches.push(format!("{at}: `unsafe` without a SAFETY comment above"));
        }
    }
    breaches
}

/// Reports whether a line contains the keyword in code.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    // Skips string literals, none of which contains code.
    let code: String = code.split('"').step_by(2).collect();
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.split(|c| !part_of_word(c))
        .any(|word| word == "unsafe")
}

/// Reports whether a SAFETY comment (or, for an `unsafe fn` or trait, a Safety section)
/// is in the lines above or on the line itself. Comments don't count towards the
/// distance: a reason may be long.
fn has_reason(lines: &[&str]) -> bool {
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let mut code = 0;
    for line in lines.iter().rev() {
        if says(line) {
            return true;
        }
        if !line.trim_start().starts_with("//") {
            code += 1;
        }
        if code > REACH + 1 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn unsafe_outside_of_the_edges_is_a_breach() {
        let found = check(&file(
            "agent/src/run.rs",
            "fn f() {\n    unsafe { g() }\n}\n",
        ));
        assert_eq!(
            found,
            ["agent/src/run.rs:2: `unsafe` outside of the datapath's edges"]
        );
    }

    #[test]
    fn unsafe_without_a_reason_is_a_breach_where_it_may_stand_too() {
        let name = "ebpf/src/bpf/maps.rs";
        assert_eq!(check(&file(name, "unsafe { g() }\n")).len(), 1);
        assert!(check(&file(name, "// SAFETY: g is fine.\nunsafe { g() }\n")).is_empty());
        let far = "// SAFETY: g is fine.\na;\nb;\nc;\nd;\nunsafe { g() }\n";
        assert_eq!(check(&file(name, far)).len(), 1);
    }

    #[test]
    fn the_word_in_comments_strings_and_lint_names_is_no_unsafe() {
        let text = "// unsafe\n#![deny(unsafe_code)]\nlet s = \"unsafe\";\n";
        assert!(check(&file("agent/src/lib.rs", text)).is_empty());
    }
}
