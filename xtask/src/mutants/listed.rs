//! Names of mutants, and the list of those that may survive.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// The mutants of the list: lines ``- `NAME`: REASON``.
pub(super) fn read(text: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("- `") else {
            continue;
        };
        match rest.split_once("`: ") {
            Some((name, reason)) if !reason.trim().is_empty() => {
                if !names.insert(name.to_owned()) {
                    bail!("listed twice: {name}");
                }
            }
            _ => bail!("listed without a reason: {line}"),
        }
    }
    Ok(names)
}

/// A mutant's name without line and column, which any edit above it changes:
/// `ebpf/src/a.rs:3:7: replace < with <= in f` is `ebpf/src/a.rs: replace …`.
pub(super) fn name(line: &str) -> String {
    let mut parts = line.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(row), Some(column), Some(what))
            if is_number(row) && is_number(column) =>
        {
            format!("{file}:{what}")
        }
        _ => line.to_owned(),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_line_and_no_column() {
        let line = "ebpf/src/a.rs:3:7: replace a::b -> bool with true";
        assert_eq!(name(line), "ebpf/src/a.rs: replace a::b -> bool with true");
        assert_eq!(name("something else"), "something else");
    }

    #[test]
    fn a_listed_mutant_has_a_reason() {
        let text = "# Mutants\n\n- `ebpf/src/a.rs: x`: equal either way.\n";
        let names = read(text).expect("a list");
        assert!(names.contains("ebpf/src/a.rs: x"));
        assert!(read("- `ebpf/src/a.rs: x`\n").is_err());
        assert!(read("- `a`: b\n- `a`: c\n").is_err());
    }
}
