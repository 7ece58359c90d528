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

/// Names of kinds and maps, with the one file that may match on them as text.
const NAMES: [(&str, &[&str]); 2] = [
    (
        "agent/policy/src/model/kind.rs",
        &[
            "Namespace",
            "Node",
            "Pod",
            "Service",
            "EndpointSlice",
            "NetworkPolicy",
            "ClusterNetworkPolicy",
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "ReplicaSet",
            "Job",
            "CronJob",
            "ReplicationController",
        ],
    ),
    (
        "agent/src/datapath/catalog.rs",
        &[
            "CONTROL",
            "ENDPOINTS",
            "CIDRS",
            "RULES",
            "PORTS",
            "ADDRESSES",
            "SERVICES",
            "CONNECTIONS",
            "CONN_OVERFLOW",
            "OPENING",
            "QUOTA",
            "CLAIMS",
            "LOCALS",
            "DROPS",
            "NAMES",
            "AGENT",
        ],
    ),
];

/// Returns the retired words in a file, and its matches on names.
pub(super) fn check(file: &File) -> Vec<String> {
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
                    matches(&file.name, line).map(|(name, home)| {
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
fn matches(file: &str, line: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let is_product = file.starts_with("agent/") && file.contains("/src/") && !file.contains("test");
    let homes = NAMES
        .into_iter()
        .filter(move |(home, _)| is_product && *home != file);
    let names = homes.flat_map(|(home, names)| names.iter().map(move |name| (*name, home)));
    names.filter(move |(name, _)| {
        let text = format!("\"{name}\"");
        line.match_indices(&text).any(|(at, _)| {
            let (before, behind) = (&line[..at], &line[at + text.len()..]);
            let behind = behind.trim_start();
            behind.starts_with("=>")
                || behind.starts_with("| \"")
                || before.trim_end().ends_with("==")
                || before.trim_end().ends_with("!=")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{File, check};

    fn breaches(name: &str, text: &str) -> usize {
        let (name, text) = (name.to_owned(), text.to_owned());
        check(&File { name, text }).len()
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
}
