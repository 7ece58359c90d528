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

fn folder(yaml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), yaml).unwrap();
    folder
}

fn args(folder: &Path, service: &str) -> CallersArgs {
    let line = format!(
        "ringfence callers {service} --manifests {}",
        folder.display()
    );
    match Cli::try_parse_from(line.split_whitespace())
        .unwrap()
        .command
    {
        Command::Callers(args) => args,
        other => panic!("{other:?}"),
    }
}

fn shown(yaml: &str, service: &str) -> String {
    let folder = folder(yaml);
    let args = args(folder.path(), service);
    let index = super::super::load(&args.cluster, &args.policy).unwrap();
    text(&callers::callers(&index, service).unwrap())
}

fn bank(mode: &str) -> String {
    let ledger = format!("{{app: ledger, ringfence.dev/ingress: {mode}}}");
    let api = "{app: api, egress.ringfence.dev/ledger: \"8080\", ringfence.dev/egress: enforce}";
    pod("ledger-0", "10.0.0.1", &ledger) + &pod("api-0", "10.0.0.2", api)
}

#[test]
fn each_caller_is_a_row_with_its_ports_and_the_rule_that_admits_it() {
    let expected = "Callers of bank/ledger, under label ringfence.dev/ingress:\n\n\
        CALLER    PORTS     EGRESS   THROUGH\n\
        bank/api  TCP/8080  allowed  the caller's label egress.ringfence.dev/ledger: \"8080\"\n";
    assert_eq!(shown(&bank("enforce"), "bank/ledger"), expected);
}

#[test]
fn what_staging_would_leave_has_a_column_of_its_own() {
    let text = shown(&bank("audit"), "bank/ledger");
    let first = "Nothing isolates bank/ledger yet: any address may call it, under \
                 label ringfence.dev/ingress [staged].\n";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("ONCE ENFORCED"), "{text}");
    assert!(text.contains("bank/api     all    TCP/8080"), "{text}");
}

#[test]
fn an_open_service_says_so_first() {
    let text = shown(&bank("enforce"), "bank/api");
    let expected = "Nothing isolates bank/api: any address may call it.\n\n\
        CALLER       PORTS  EGRESS  THROUGH\n\
        any address  all    -       nothing denies it\n";
    assert_eq!(text, expected);
}

#[test]
fn a_service_that_nobody_may_call_says_so() {
    let yaml = pod("alone", "10.0.0.1", "{ringfence.dev/ingress: enforce}");
    assert!(shown(&yaml, "bank/alone").ends_with("\n\nNobody may call it.\n"));
    let yaml = pod("q", "10.0.0.1", "{ringfence.dev/quarantine: \"true\"}");
    let expected = "bank/q is under quarantine.\n\nNobody may call it.\n";
    assert_eq!(shown(&yaml, "bank/q"), expected);
}

#[test]
fn a_known_service_is_fine_and_an_unknown_one_bad_input() {
    let folder = folder(&bank("enforce"));
    let found = |service: &str| run(&args(folder.path(), service));
    assert_eq!(found("bank/ledger").unwrap(), Found::Fine);
    for wrong in ["bank/none", "ledger", "outside"] {
        assert_eq!(found(wrong).unwrap_err().code(), 2, "{wrong}");
    }
}

#[test]
fn callers_are_read_back_as_the_apis_type() {
    let folder = folder(
        &(pod(
            "web",
            "10.0.0.1",
            "{app: web, egress.ringfence.dev/ledger: \"true\"}",
        ) + &pod(
            "ledger",
            "10.0.0.2",
            "{app: ledger, ringfence.dev/ingress: enforce}",
        )),
    );
    let args = args(folder.path(), "bank/ledger");
    let index = super::super::load(&args.cluster, &args.policy).unwrap();
    let found = callers::callers(&index, "bank/ledger").unwrap();
    let text = serde_json::to_string(&found).unwrap();
    let read: ringfence_api::offline::Callers = serde_json::from_str(&text).unwrap();
    assert!(!read.callers.is_empty());
    assert_eq!(answers::callers(&found), read);
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
}
