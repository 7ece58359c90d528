use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Command};

fn pod(name: &str, address: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bank, labels: {labels}}}\n\
         spec: {{nodeName: n, containers: []}}\nstatus: {{phase: Running, podIP: {address}}}\n---\n"
    )
}

const LEDGER: &str = "{app: ledger, ringfence.dev/ingress: enforce}";

/// Returns a bank whose API may call the ledger on these ports.
fn bank(ports: &str) -> String {
    let api = format!("{{app: api, egress.ringfence.dev/ledger: \"{ports}\"}}");
    pod("api-0", "10.0.0.1", &api) + &pod("ledger-0", "10.0.0.2", LEDGER)
}

fn folder(yaml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), yaml).unwrap();
    folder
}

fn args(folder: &Path, more: &str) -> MatrixArgs {
    let line = format!(
        "ringfence matrix --port TCP/80 --manifests {} {more}",
        folder.display()
    );
    match Cli::try_parse_from(line.split_whitespace())
        .unwrap()
        .command
    {
        Command::Matrix(args) => args,
        other => panic!("{other:?}"),
    }
}

fn matrix(yaml: &str, more: &str) -> Matrix {
    let folder = folder(yaml);
    let args = args(folder.path(), more);
    let index = super::super::load(&args.cluster, &args.policy).unwrap();
    Matrix::compute(&index, &query(&args).unwrap()).unwrap()
}

#[test]
fn rows_are_callers_and_columns_their_numbers() {
    let found = matrix(&bank("80_81"), "--port UDP/53");
    let expected = "From each row to each column, one character per port (TCP/80, UDP/53): . allowed, X denied\n\n\
                    \x20                 1   2\n1 bank/api-0     ..  .X\n2 bank/ledger-0  ..  ..\n";
    assert_eq!(text(&found, Paint::off()), expected);
}

#[test]
fn columns_that_are_not_the_rows_have_a_legend() {
    let more = "--from bank/api --to bank/ledger --peer 10.0.0.0/30 --by workload";
    let expected = "From each row to each column, one character per port (TCP/80): . allowed, X denied, ~ some of both\n\n\
                    \x20            1  2\nbank/api     .  .\n10.0.0.0/30  ~\n\n1 bank/ledger\n2 10.0.0.0/30\n";
    assert_eq!(text(&matrix(&bank("80"), more), Paint::off()), expected);
}

#[test]
fn a_large_matrix_is_one_line_a_caller() {
    let mut yaml = bank("80");
    for n in 0..60 {
        let address = format!("10.0.1.{n}");
        yaml += &pod(&format!("web-{n}"), &address, &format!("{{app: web-{n}}}"));
    }
    let shown = text(&matrix(&yaml, "--port TCP/81"), Paint::off());
    let line = |name: &str| {
        let mut lines = shown.lines().filter(|line| line.starts_with(name));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no {name} in\n{shown}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("CALLER"), "CALLER PORTS MAY CALL");
    assert_eq!(line("bank/api-0 "), "bank/api-0 TCP/80 bank/ledger-0");
    assert!(shown.contains("TCP/80,TCP/81  all 61 but bank/ledger-0\n"));
    assert_eq!(line("bank/ledger-0 "), "bank/ledger-0 TCP/80,TCP/81 all 61");
}

#[test]
fn a_caller_that_may_call_nobody_is_listed_too() {
    let mut yaml = pod("q", "10.0.0.1", "{ringfence.dev/quarantine: \"true\"}");
    for n in 0..60 {
        yaml += &pod(&format!("web-{n}"), &format!("10.0.1.{n}"), "{}");
    }
    let shown = text(&matrix(&yaml, ""), Paint::off());
    let quiet = shown
        .lines()
        .find(|line| line.starts_with("bank/q "))
        .unwrap();
    assert!(quiet.ends_with("  nobody"), "{shown}");
}

#[test]
fn fail_on_open_finds_any_allowed_call_of_those_asked_for() {
    let folder = folder(&bank("80"));
    let found = |more: &str| run(&args(folder.path(), &format!("{more} -o json"))).unwrap();
    assert_eq!(found("--from bank/api --to bank/ledger"), Found::Fine);
    let check = "--fail-on-open --to bank/ledger --from";
    assert_eq!(found(&format!("{check} bank/api")), Found::Something);
    assert_eq!(found(&format!("{check} bank/ledger")), Found::Fine);
    assert_eq!(
        found(&format!("{check} 0.0.0.0/0 --by workload")),
        Found::Something
    );
    assert_eq!(found(&format!("{check} 203.0.113.0/24")), Found::Fine);
}

#[test]
fn a_check_with_nothing_to_judge_fails() {
    let empty = tempfile::tempdir().unwrap();
    let policies = folder(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: p, namespace: bank}\nspec: {podSelector: {}}\n",
    );
    let full = folder(&bank("80"));
    for without_pods in [&empty, &policies] {
        let found = |more: &str| run(&args(without_pods.path(), more));
        assert_eq!(found("").unwrap(), Found::Fine);
        assert_eq!(found("--fail-on-open").unwrap_err().code(), 2);
        let from = format!("--fail-on-open --diff {}", full.path().display());
        assert_eq!(found(&from).unwrap(), Found::Something);
        let to = format!("--fail-on-open --diff {}", without_pods.path().display());
        let failure = run(&args(full.path(), &to)).unwrap_err();
        assert_eq!(failure.code(), 2);
        let said = failure.to_string();
        assert!(said.starts_with("nothing to judge"), "{said}");
    }
}

#[test]
fn stdin_can_not_be_both_sides_of_a_difference() {
    let failure = run(&args(Path::new("-"), "--diff -")).unwrap_err();
    assert_eq!(failure.code(), 2);
}

#[test]
fn unknown_names_are_bad_input() {
    let folder = folder(&bank("80"));
    for wrong in [
        "--from bank/none",
        "--to none",
        "--peer bank/api",
        "--from ::ffff:10.0.0.1",
    ] {
        let failure = run(&args(folder.path(), wrong)).unwrap_err();
        assert_eq!(failure.code(), 2, "{wrong}");
    }
    let failure = run(&args(folder.path(), "--from bank/none")).unwrap_err();
    let expected = "no pod or service bank/none with live pods is known";
    assert_eq!(failure.to_string(), expected);
}

#[test]
fn a_difference_fails_only_if_something_opens() {
    let [less, more] = [folder(&bank("81")), folder(&bank("80"))];
    let found = |before: &tempfile::TempDir, after: &tempfile::TempDir, flag: &str| {
        let other = format!("--diff {} {flag}", after.path().display());
        run(&args(before.path(), &other)).unwrap()
    };
    assert_eq!(found(&less, &more, "--fail-on-open"), Found::Something);
    assert_eq!(found(&less, &more, ""), Found::Fine);
    assert_eq!(found(&more, &less, "--fail-on-open"), Found::Fine);
    assert_eq!(found(&more, &more, "--fail-on-open -o json"), Found::Fine);
}

#[test]
fn a_difference_is_by_workload_unless_asked_otherwise_and_marks_what_is_new() {
    let before = folder(&pod("ledger-0", "10.0.0.2", LEDGER));
    let after = folder(&bank("80"));
    let shown = |more: &str| {
        let other = format!("--diff {} --to bank/ledger {more}", after.path().display());
        let args = args(before.path(), &other);
        let [before, after] = [
            args.cluster.manifests.as_ref().unwrap(),
            &after.path().to_owned(),
        ]
        .map(|folder| super::super::read(folder, &args.policy).unwrap());
        difference::text(&Difference::compute(&before, &after, &query(&args).unwrap()).unwrap())
    };
    let expected = "CHANGE  SOURCE          DESTINATION  PORTS\n\
                    opens   bank/api (new)  bank/ledger  TCP/80\n";
    assert_eq!(shown(""), expected);
    assert!(shown("--by pod").contains("bank/api-0 (new)  bank/ledger-0"));
    assert_eq!(
        shown("--from bank/ledger"),
        "Nothing opens or closes on TCP/80.\n"
    );
}

#[test]
fn a_name_of_any_length_is_printed_whole_and_short_ones_stay_aligned() {
    let long = "x".repeat(70_000);
    let few = bank("80") + &pod(&long, "10.0.0.3", "{app: other}");
    let many = (0..WIDEST).map(|n| pod(&format!("p-{n}"), &format!("10.0.1.{n}"), "{app: p}"));
    let many = few.clone() + &many.collect::<String>();
    for yaml in [few, many] {
        let text = text(&matrix(&yaml, ""), Paint::off());
        assert!(text.contains(&format!("bank/{long}  ")), "no long name");
        assert!(
            text.contains(&format!("bank/api-0{}", " ".repeat(20))),
            "no short one"
        );
        assert!(text.len() < 1_000_000, "{} bytes", text.len());
    }
}

#[test]
fn a_matrix_and_a_difference_are_read_back_as_the_apis_types() {
    let found = matrix(&bank("80_81"), "--port UDP/53");
    let said = serde_json::to_value(&found).unwrap();
    let read: ringfence_api::offline::Matrix = serde_json::from_value(said.clone()).unwrap();
    assert_eq!(read.allowed["bank/api-0"]["bank/ledger-0"], ".X");
    assert_eq!(serde_json::to_value(&read).unwrap(), said);
    let (before, after) = (folder(&bank("81")), folder(&bank("80")));
    let [args, other] = [&before, &after].map(|folder| args(folder.path(), ""));
    let [index, changed] =
        [&args, &other].map(|args| super::super::load(&args.cluster, &args.policy).unwrap());
    let found = Difference::compute(&index, &changed, &query(&args).unwrap()).unwrap();
    let said = serde_json::to_value(&found).unwrap();
    let read: ringfence_api::offline::Difference = serde_json::from_value(said.clone()).unwrap();
    assert_eq!(read.opens.len(), 1);
    assert_eq!(answers::difference(&found), read);
    assert_eq!(serde_json::to_value(&read).unwrap(), said);
}
