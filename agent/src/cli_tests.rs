use std::net::SocketAddr;
use std::time::Duration;

use clap::CommandFactory as _;

use super::*;
use crate::failure::Failure;
use crate::kubernetes::Access;
use crate::settings::{Origin, Settings};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn settings(line: &str) -> Result<Settings, Failure> {
    let cli = parse(line).unwrap();
    match cli.command {
        Command::Agent(args) => args.resolve(&cli.global),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_argument_definitions_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let settings = settings("ringfence agent --manifests /m --node-name n").unwrap();
    assert_eq!(settings.socket, PathBuf::from("/run/ringfence/agent.sock"));
    assert_eq!(settings.pin_dir, PathBuf::from("/sys/fs/bpf/ringfence"));
    assert_eq!(settings.netns_dir, PathBuf::from("/run/netns"));
    assert_eq!(
        settings.metrics_addr,
        Some(SocketAddr::from(([127, 0, 0, 1], 9435)))
    );
    assert_eq!(
        settings.health_addr,
        Some(SocketAddr::from(([127, 0, 0, 1], 9434)))
    );
    assert_eq!(settings.metrics_from, [], "everybody");
    assert_eq!(settings.pickup, Duration::from_secs(10));
    assert_eq!(settings.config, ringfence_policy::config::Config::default());
    assert!(!settings.audit);
}

#[test]
fn an_agent_without_manifests_asks_the_api_server() {
    let origin = |line: &str| settings(line).unwrap().origin;
    let access = |kubeconfig| Origin::Kubernetes(Access { kubeconfig });
    for line in ["ringfence agent", "ringfence agent --source kubernetes"] {
        assert_eq!(origin(line), access(None));
    }
    let line = "ringfence agent --kubeconfig /k";
    assert_eq!(origin(line), access(Some("/k".into())));
    let line = "ringfence agent --manifests /m";
    assert_eq!(origin(line), Origin::Manifests("/m".into()));
    assert!(!settings("ringfence agent").unwrap().emit_events);
    assert!(
        settings("ringfence agent --emit-events")
            .unwrap()
            .emit_events
    );
}

#[test]
fn an_api_server_and_a_folder_are_not_read_at_once() {
    for line in [
        "ringfence agent --source kubernetes --manifests /m",
        "ringfence agent --kubeconfig /k --manifests /m",
        "ringfence matrix --port TCP/1 --kubeconfig /k --manifests /m",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn every_flag_of_the_agent_reaches_its_setting() {
    let settings = settings(
        "ringfence --socket /s agent --manifests /m --mode audit --node-name n --netns-dir /ns \
         --metrics-addr [::1]:1 --log-format json --service-label a/b --service-label c \
         --label-prefix example.com --dns-service dns/core --dns-service dns/edge --dns-address fd00::10 --node-address 10.0.0.1 \
         --node-address fd00::1 --pod-cidrs 10.244.0.1/16,fd00:10::/32 --pod-cidrs 10.9.0.0/24 --events-per-second 5 --pickup 3 --pin-dir /p",
    )
    .unwrap();
    assert_eq!(
        (settings.socket, settings.pin_dir),
        ("/s".into(), "/p".into())
    );
    assert!(settings.audit);
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.events_per_second, 5);
    assert_eq!(settings.config.service_labels, ["a/b", "c"]);
    assert_eq!(settings.config.egress_prefix, "egress.example.com");
    assert_eq!(settings.config.dns_services, ["dns/core", "dns/edge"]);
    let caches: [std::net::IpAddr; 2] = ["169.254.20.10", "fd00::10"].map(|ip| ip.parse().unwrap());
    assert_eq!(settings.config.dns_addresses, caches);
    assert_eq!(settings.config.node_addresses.len(), 2);
    let ranges = settings.config.pod_cidrs.iter().map(ToString::to_string);
    let ranges: Vec<String> = ranges.collect();
    assert_eq!(ranges, ["10.244.0.0/16", "fd00:10::/32", "10.9.0.0/24"]);
}

#[test]
fn pods_have_no_range_that_is_larger_than_a_clusters() {
    for range in [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/7",
        "::ffff:0:0/96",
        "10.0.0.1",
        "x",
    ] {
        for command in ["agent --manifests /m", "matrix --port TCP/1"] {
            let line = format!("ringfence {command} --pod-cidrs {range}");
            assert_eq!(parse(&line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}

#[test]
fn another_label_prefix_changes_the_service_label_too() {
    let settings = settings("ringfence agent --manifests /m --label-prefix example.com").unwrap();
    assert_eq!(settings.config.service_labels[0], "example.com/service");
    assert_eq!(settings.config.service_labels.len(), 3);
}

#[test]
fn metrics_can_be_turned_off_but_not_misspelt() {
    let none = settings("ringfence agent --manifests /m --metrics-addr none").unwrap();
    assert_eq!(none.metrics_addr, None);
    let failure = settings("ringfence agent --manifests /m --metrics-addr 9435").unwrap_err();
    assert_eq!(failure.code(), 2);
}

#[test]
fn probes_have_a_listener_of_their_own_or_none() {
    let with = |flags: &str| settings(&format!("ringfence agent --manifests /m {flags}"));
    let none = with("--health-addr none --metrics-addr none").unwrap();
    assert_eq!((none.health_addr, none.metrics_addr), (None, None));
    for flags in ["--health-addr 9434", "--health-addr 127.0.0.1:9435"] {
        let failure = with(flags).unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains("--health-addr"), "{failure}");
    }
}

#[test]
fn who_may_scrape_is_a_block_or_a_selector_and_anything_else_is_refused() {
    let with = |flags: &str| settings(&format!("ringfence agent --manifests /m {flags}"));
    let some = with("--metrics-from 10.0.0.0/8 --metrics-from monitoring/app=p").unwrap();
    let expected = ["10.0.0.0/8", "monitoring/app=p"].map(|text| text.parse().unwrap());
    assert_eq!(some.metrics_from, expected);
    for wrong in ["10.0.0.0/33", "monitoring", "*/app=p"] {
        let failure = with(&format!("--metrics-from fd00::/8 --metrics-from {wrong}"));
        let failure = failure.unwrap_err();
        assert_eq!(failure.code(), 2, "{failure}");
        let named = format!("--metrics-from {wrong:?}");
        assert!(failure.to_string().contains(&named), "{failure}");
    }
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in [
        "ringfence --socket /s endpoints -o json",
        "ringfence endpoints --socket /s -o json",
    ] {
        assert_eq!(parse(line).unwrap().global.socket, PathBuf::from("/s"));
    }
}

#[test]
fn a_pod_to_wait_for_is_a_namespace_and_a_name() {
    assert!(parse("ringfence status --wait bank/ledger --timeout 5").is_ok());
    for line in [
        "ringfence status --wait ledger",
        "ringfence status --wait a/b/c",
        "ringfence status --wait /b",
        "ringfence status --timeout 5",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn offline_commands_need_what_they_ask_about() {
    assert!(parse("ringfence explain a/b c/d TCP/8080 --manifests m -o json").is_ok());
    assert!(parse("ringfence matrix --manifests m --port TCP/1 --port UDP/2").is_ok());
    assert!(parse("ringfence callers a/b --manifests m -o json").is_ok());
    for line in [
        "ringfence explain a/b c/d --manifests m",
        "ringfence matrix --manifests m",
        "ringfence callers --manifests m",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn a_matrix_is_narrowed_collapsed_and_compared_by_flags() {
    let line = "ringfence matrix --manifests m --port TCP/1 --from a/b --from c --to d/ \
                --peer 10.0.0.0/8 --by workload --diff n --fail-on-open";
    let Command::Matrix(args) = parse(line).unwrap().command else {
        panic!("not a matrix")
    };
    assert_eq!(
        (args.from, args.to),
        (vec!["a/b".into(), "c".into()], vec!["d/".into()])
    );
    assert_eq!((args.by, args.diff), (Some(By::Workload), Some("n".into())));
    assert!(args.fail_on_open && args.peer == ["10.0.0.0/8"]);
    let wrong = parse("ringfence matrix --manifests m --port TCP/1 --by node").unwrap_err();
    assert_eq!(wrong.exit_code(), 2);
}

#[test]
fn ports_of_tunnels_are_told_one_by_one_or_in_lists_and_anything_else_exits_2() {
    let line = "ringfence agent --node-name n --tunnel-port UDP/8473,udp/6784 --tunnel-port UDP/1";
    assert_eq!(settings(line).unwrap().tunnel_ports, [1, 6784, 8473].into());
    for bad in [
        "8473",
        "TCP/8473",
        "UDP/0",
        "UDP/65536",
        "UDP/1,",
        "icmp",
        "UDP/",
    ] {
        let line = format!("ringfence agent --tunnel-port {bad}");
        assert_eq!(parse(&line).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn the_mark_of_seen_packets_is_one_bit_or_none_and_anything_else_exits_2() {
    let mark = |flag: &str| settings(&format!("ringfence agent --node-name n {flag}")).unwrap();
    assert_eq!(mark("").seen_mark, 0x1000);
    assert_eq!(mark("--seen-mark 0x80000").seen_mark, 0x8_0000);
    assert_eq!(mark("--seen-mark 4").seen_mark, 4);
    assert_eq!(mark("--seen-mark 0").seen_mark, 0);
    for bad in ["3", "0x1001", "0x", "0x100000000", "-1", "none"] {
        let line = format!("ringfence agent --seen-mark={bad}");
        assert_eq!(parse(&line).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn the_network_plugin_is_installed_only_with_all_its_folders() {
    let all = "ringfence agent --node-name n --cni-state /s --cni-conf-dir /c --cni-bin-dir /b";
    let install = settings(all).unwrap().install.unwrap();
    assert_eq!(install.plugin.file_name(), Some("ringfence-cni".as_ref()));
    assert_eq!(
        (install.entry.timeout_seconds, install.entry.on_timeout),
        (5, None)
    );
    assert_eq!(
        install.entry.socket,
        PathBuf::from("/run/ringfence/agent.sock")
    );
    let more =
        format!("{all} --cni-plugin /p --cni-timeout 7 --cni-on-timeout allow --status-gates-node");
    let entry = settings(&more).unwrap().install.unwrap().entry;
    assert_eq!(entry.on_timeout, Some(ringfence_cni::OnTimeout::Allow));
    assert!(entry.timeout_seconds == 7 && entry.status_gates_node);
    let without = settings("ringfence agent --node-name n --cni-state /s").unwrap();
    assert_eq!(without.install, None);
    for bad in [
        "--cni-conf-dir /c --cni-bin-dir /b",
        "--cni-state /s --cni-conf-dir /c",
        "--cni-state /s --cni-bin-dir /b",
        "--cni-state /s --cni-timeout 7",
        "--manifests m --cni-state /s --cni-conf-dir /c --cni-bin-dir /b",
    ] {
        let line = format!("ringfence agent {bad}");
        assert_eq!(parse(&line).unwrap_err().exit_code(), 2, "{bad}");
    }
    let relative = all.replace("/s", "s");
    assert_eq!(settings(&relative).unwrap_err().code(), 2);
    assert!(parse("ringfence uninstall --cni-conf-dir /c --cni-state /s").is_ok());
}

#[test]
fn programs_are_served_only_with_all_three_files() {
    let with = |flags: &str| settings(&format!("ringfence agent --manifests /m {flags}"));
    assert_eq!(with("").unwrap().api, None);
    assert_eq!(with("--api-addr none").unwrap().api, None);
    let files = "--api-cert /c --api-key /k --api-client-ca /a";
    let api = with(&format!(
        "--api-addr [::]:9436 {files} --api-client-name relay --api-client-name page"
    ));
    let api = api.unwrap().api.unwrap();
    assert_eq!(api.address, SocketAddr::from(([0; 8], 9436)));
    assert_eq!(api.files.client_ca, PathBuf::from("/a"));
    assert_eq!(api.files.client_names, ["relay", "page"]);
    let all = [
        "--api-cert /c",
        "--api-key /k",
        "--api-client-ca /a",
        "--api-client-name x",
    ];
    for left in ["--api-cert", "--api-key", "--api-client-ca"] {
        let given = all
            .iter()
            .filter(|flag| !flag.starts_with(&format!("{left} ")));
        let given: Vec<&str> = given.copied().collect();
        let failure = with(&format!("--api-addr 0.0.0.0:9436 {}", given.join(" ")));
        let failure = failure.unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains(left), "{left}: {failure}");
    }
    for flag in all {
        let line = format!("ringfence agent --manifests /m {flag}");
        let error = parse(&line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{flag}");
        assert!(error.to_string().contains("--api-addr"), "{error}");
    }
    for address in ["9436", "127.0.0.1:9434", "127.0.0.1:9435"] {
        let failure = with(&format!("--api-addr {address} {files}")).unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(failure.to_string().contains("--api-addr"), "{failure}");
    }
}

/// Returns the commands in a page's code blocks, each starting at `ringfence`.
fn commands(page: &str) -> Vec<String> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code && let Some(command) = line.strip_prefix("ringfence ") {
            found.push(format!("ringfence {command}"));
        } else if is_code && let Some((_, command)) = line.split_once("-- /bin/ringfence ") {
            found.push(format!("ringfence {command}"));
        }
    }
    found
}

#[test]
fn the_commands_of_the_troubleshooting_page_exist() {
    let found = commands(include_str!("../../docs/troubleshooting.md"));
    assert!(found.len() > 30, "{found:?}");
    for line in found {
        // A placeholder isn't a valid name.
        if let Err(error) = parse(&line.replace("NS/NAME", "ns/name").replace("NODE", "node")) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn an_agent_follows_files_and_no_stdin() {
    let failure = settings("ringfence agent --manifests -").unwrap_err();
    assert_eq!(failure.code(), 2);
    assert!(failure.to_string().starts_with("--manifests -: "));
}
