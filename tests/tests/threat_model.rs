//! The threat model's promises: each names tests, and these tests exist.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The folders of tests, relative to this package's folder.
const SOURCES: [&str; 4] = ["tests", "src", "../agent", "../ebpf/src"];
/// The head of a table of promises.
const HEAD: &str = "| promise | shown by |";

/// Returns the text and its promises: each sentence, and the tests that show it.
fn promises() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string("../docs/threat-model.md").unwrap();
    let mut promises = Vec::new();
    let mut lines = text.lines();
    while lines.any(|line| line == HEAD) {
        // Skip the line below the head.
        let rows = lines
            .by_ref()
            .skip(1)
            .take_while(|line| line.starts_with('|'));
        promises.extend(rows.map(promise));
    }
    promises
}

fn promise(row: &str) -> (String, Vec<String>) {
    let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let [sentence, shown] = cells[..] else {
        panic!("not two cells: {row}");
    };
    let names = shown.split('`').skip(1).step_by(2);
    (sentence.to_owned(), names.map(str::to_owned).collect())
}

/// Returns every function annotated with `#[test]` or a similar attribute.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in SOURCES {
        collect(Path::new(folder), &mut names);
    }
    names
}

fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(tests_in(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            names.extend(rest.split('(').next().map(str::to_owned));
            marked = false;
        }
    }
    names
}

#[test]
fn every_promise_of_the_threat_model_names_tests_that_exist() {
    let (promises, tests) = (promises(), tests());
    assert!(promises.len() > 20, "{promises:#?}");
    let mut wrong = Vec::new();
    for (sentence, names) in &promises {
        if names.is_empty() {
            wrong.push(format!("nothing shows: {sentence}"));
        }
        let missing = names.iter().filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("no test {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_test_of_the_attack_lab_shows_a_promise() {
    let lab = fs::read_to_string("tests/attacks/main.rs").unwrap();
    let promises = promises();
    let named: BTreeSet<&String> = promises.iter().flat_map(|(_, names)| names).collect();
    // Tests that need root are attacks; the others check the list itself.
    let attacks = tests_in(&lab)
        .into_iter()
        .filter(|name| lab.contains(&format!("cargo xtask test\"]\nfn {name}(")));
    let left: Vec<String> = attacks.filter(|name| !named.contains(name)).collect();
    assert!(left.is_empty(), "{left:?}");
}
