//! Names of mutants, and the list of mutants that may survive.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// Number of mutants by name: an operator that occurs twice in a function gives two
/// mutants of the same name.
pub(super) type Names = BTreeMap<String, usize>;

/// Counts names.
pub(super) fn count(all: impl IntoIterator<Item = String>) -> Names {
    let mut names = Names::new();
    for name in all {
        *names.entry(name).or_default() += 1;
    }
    names
}

/// Returns the names that occur more often in `some` than in `others`.
pub(super) fn beyond<'a>(some: &'a Names, others: &Names) -> Vec<&'a str> {
    let more = |(name, count): &(&String, &usize)| others.get(*name).is_none_or(|o| o < *count);
    let more = some.iter().filter(more);
    more.map(|(name, _)| name.as_str()).collect()
}

/// Parses the list of mutants: lines ``- `NAME`: REASON``.
pub(super) fn read(text: &str) -> Result<Names> {
    let mut names = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("- `") else {
            continue;
        };
        match rest.split_once("`: ") {
            Some((name, reason)) if !reason.trim().is_empty() => {
                names.push(name.to_owned());
            }
            _ => bail!("listed without a reason: {line}"),
        }
    }
    Ok(count(names))
}

/// Returns a mutant's name without line and column, which any edit above it changes:
/// `ebpf/src/a.rs:3:7: replace < with <= in f` becomes `ebpf/src/a.rs: replace …`.
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
        assert_eq!(names["ebpf/src/a.rs: x"], 1);
        assert!(read("- `ebpf/src/a.rs: x`\n").is_err());
    }

    #[test]
    fn two_mutants_of_one_name_are_listed_twice() {
        let once = read("- `a`: b\n").expect("a list");
        let twice = read("- `a`: b\n- `a`: c\n").expect("a list");
        assert_eq!(beyond(&twice, &once), ["a"]);
        assert!(beyond(&once, &twice).is_empty());
        assert!(beyond(&once, &once).is_empty());
    }
}
