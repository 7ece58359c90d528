//! Checks for retired words, and for names that only one file may match on.

use super::File;

/// Retired words, which mean something else in the field, and their replacements.
const GIVEN_UP: [(&str, &str); 12] = [
    ("world", "buffer"),
    ("worlds", "buffers"),
    ("seat", "slot"),
    ("seats", "slots"),
    ("seated", "placed"),
    ("sow", "seed"),
    ("bury", "free"),
    ("enlist", "register"),
    ("Seat", "Occupant"),
    ("Sight", "AddressInfo"),
    ("FlowKey", "ConnectionKey"),
    ("EndpointWorld", "EndpointRules"),
];

/// Files that alone match on the names of kinds and of maps.
const HOMES: [&str; 2] = [
    "agent/policy/src/model/kind.rs",
    "agent/src/datapath/catalog.rs",
];

/// Names, each with the one file that may match on it as text.
pub(super) struct Names(Vec<(String, &'static str)>);

impl Names {
    /// Reads them from the files that may match on them.
    pub(super) fn of(files: &[File]) -> Self {
        let homes = HOMES.iter().filter_map(|home| {
            let file = files.iter().find(|file| file.name == *home)?;
            Some((*home, file.text.as_str()))
        });
        let names =
            homes.flat_map(|(home, text)| literals(text).map(move |name| (name.to_owned(), home)));
        Self(names.collect())
    }
}

/// Returns the literals of a file that are names: `NetworkPolicy`, `CONN_OVERFLOW`.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let literals = code.flat_map(|line| line.split('"').skip(1).step_by(2));
    literals.filter(|text| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_alphabetic() || c == '_')
    })
}

/// Returns the retired words in a file, and its matches on names.
pub(super) fn check(file: &File, names: &Names) -> Vec<String> {
    let is_own = file.name.ends_with("tidy/words.rs");
    let is_text = [".rs", ".md", ".yaml", ".toml"]
        .iter()
        .any(|end| file.name.ends_with(end));
    if is_own || !is_text || file.name == "CHANGELOG.md" {
        return Vec::new();
    }
    let lines = file.text.lines().zip(1..);
    lines
        .flat_map(|(line, number)| {
            let at = format!("{}:{number}", file.name);
            given_up(line)
                .map(|(word, instead)| format!("{at}: say {instead:?}, not {word:?}"))
                .chain(
                    matches(&file.name, line, names).map(|(name, home)| {
                        format!("{at}: only {home} matches on the name {name:?}")
                    }),
                )
                .collect::<Vec<String>>()
        })
        .collect()
}

fn given_up(line: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric()).collect();
    let is_there = move |(word, _): &(&str, &str)| words.contains(word);
    GIVEN_UP.into_iter().filter(is_there)
}

/// Returns the names that a line of the agent's own code matches on.
fn matches<'n>(
    file: &str,
    line: &str,
    names: &'n Names,
) -> impl Iterator<Item = (&'n str, &'static str)> {
    let is_product = file.starts_with("agent/") && file.contains("/src/") && !file.contains("test");
    let elsewhere = names
        .0
        .iter()
        .filter(move |(_, home)| is_product && *home != file);
    let found = elsewhere.filter(move |(name, _)| {
        let text = format!("\"{name}\"");
        line.match_indices(&text).any(|(at, _)| {
            let (before, behind) = (&line[..at], &line[at + text.len()..]);
            let behind = behind.trim_start();
            behind.starts_with("=>")
                || behind.starts_with("| \"")
                || before.trim_end().ends_with("==")
                || before.trim_end().ends_with("!=")
        })
    });
    found.map(|(name, home)| (name.as_str(), *home))
}

#[cfg(test)]
mod tests {
    use super::{File, HOMES, Names, check, literals};

    fn breaches(name: &str, text: &str) -> usize {
        let file = |name: &str, text: &str| File {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        let kinds = file(HOMES[0], "\"Pod\", \"Node\", \"NetworkPolicy\", \"v1\"\n");
        let maps = file(HOMES[1], "\"RULES\"\n");
        check(&file(name, text), &Names::of(&[kinds, maps])).len()
    }

    #[test]
    fn words_that_were_given_up_are_found_as_whole_words() {
        assert_eq!(breaches("docs/a.md", "Both worlds agree.\n"), 1);
        assert_eq!(breaches("agent/src/a.rs", "struct Seat;\n"), 1);
        assert_eq!(breaches("docs/a.md", "A seating plan, worldwide.\n"), 0);
        assert_eq!(breaches("CHANGELOG.md", "Both worlds agree.\n"), 0);
    }

    #[test]
    fn matches_on_names_are_found_in_the_agents_own_code() {
        let arm = "        \"NetworkPolicy\" => 1,\n";
        assert_eq!(breaches("agent/src/a.rs", arm), 1);
        assert_eq!(breaches("agent/policy/src/model/kind.rs", arm), 0);
        assert_eq!(breaches("agent/src/a_tests.rs", arm), 0);
        assert_eq!(breaches("tests/src/a.rs", arm), 0);
        assert_eq!(breaches("agent/src/a.rs", "if map == \"RULES\" {\n"), 1);
        assert_eq!(
            breaches("agent/src/a.rs", "    \"Pod\" | \"Node\" => 1,\n"),
            2
        );
        assert_eq!(breaches("agent/src/a.rs", "kind(\"Pod\")\n"), 0);
    }

    #[test]
    fn names_are_read_from_literals_that_are_one_word() {
        let text = "// \"Comment\"\nA \"CONN_OVERFLOW\" B => \"Pod\", \"v1\" \"Pod shop/web\"\n";
        assert_eq!(literals(text).collect::<Vec<_>>(), ["CONN_OVERFLOW", "Pod"]);
    }
}
