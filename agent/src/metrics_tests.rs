use http::{HeaderMap, StatusCode};

use super::*;
use crate::datapath::{EndpointState, MapName};
use crate::kubernetes::Kind;
use ringfence_api::Status;
use ringfence_api::{UnguardedPod, UnknownDevice, Way};

fn drop_series(source: &str, destination: &str, audited: bool, packets: u64) -> DropSeries {
    DropSeries {
        source: source.into(),
        destination: destination.into(),
        direction: "ingress",
        reason: "policy",
        protocol: "tcp",
        audited,
        packets,
        bytes: packets * 60,
    }
}

fn page(snapshot: &Snapshot) -> String {
    String::from_utf8(Metrics::new().unwrap().render(snapshot).unwrap()).unwrap()
}

fn has(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "no line {line}\n{page}");
}

#[test]
fn drops_and_audited_packets_are_told_apart_by_pair() {
    let page = page(&Snapshot {
        drops: vec![
            drop_series("bank/rogue", "bank/ledger", false, 3),
            drop_series("outside", "bank/ledger", true, 5),
        ],
        ..Snapshot::default()
    });
    let labels = |source_namespace: &str, source: &str| {
        format!(
            "{{destination=\"ledger\",destination_namespace=\"bank\",direction=\"ingress\",protocol=\"tcp\",\
             reason=\"policy\",source=\"{source}\",source_namespace=\"{source_namespace}\"}}"
        )
    };
    has(
        &page,
        &format!(
            "ringfence_dropped_packets_total{} 3",
            labels("bank", "rogue")
        ),
    );
    has(
        &page,
        &format!(
            "ringfence_dropped_bytes_total{} 180",
            labels("bank", "rogue")
        ),
    );
    has(
        &page,
        &format!("ringfence_audited_packets_total{} 5", labels("", "outside")),
    );
    assert_eq!(page.matches("ringfence_dropped_packets_total{").count(), 1);
}

#[test]
fn two_series_of_one_name_add_up() {
    let drops = vec![
        drop_series("other", "other", false, 3),
        drop_series("other", "other", false, 4),
    ];
    let page = page(&Snapshot {
        drops,
        ..Snapshot::default()
    });
    assert_eq!(page.matches("ringfence_dropped_packets_total{").count(), 1);
    assert!(page.contains("} 7\n"), "{page}");
}

#[test]
fn each_watch_shows_whether_it_is_connected_and_what_went_wrong() {
    let board = Board::default();
    let pods = board.of(Kind::Pod);
    pods.answered(StatusCode::OK, &HeaderMap::new());
    pods.listing();
    board.of(Kind::Node).failed("no route to host");
    board.of(Kind::ClusterNetworkPolicy).absent();
    let page = page(&Snapshot {
        board: Some(board),
        ..Snapshot::default()
    });
    for line in [
        "ringfence_watch_connected{kind=\"Pod\"} 1",
        "ringfence_watch_connected{kind=\"Node\"} 0",
        "ringfence_watch_connected{kind=\"ClusterNetworkPolicy\"} 1",
        "ringfence_watch_errors_total{kind=\"Node\"} 1",
        "ringfence_watch_lists_total{kind=\"Pod\"} 1",
        "ringfence_watch_silent_seconds{kind=\"ClusterNetworkPolicy\"} 0",
    ] {
        assert!(
            page.lines().any(|one| one == line),
            "{line} isn't in\n{page}"
        );
    }
}

#[test]
fn the_documented_names_are_all_there() {
    let metrics = Metrics::new().unwrap();
    metrics.applied("Pod", Duration::from_millis(12));
    metrics.failed();
    let snapshot = Snapshot {
        drops: vec![
            drop_series("a/b", "c/d", false, 1),
            drop_series("a/b", "c/d", true, 1),
        ],
        stats: Stats {
            connections_allowed: 4,
            events_lost: 2,
            ..Stats::default()
        },
        maps: vec![MapUsage {
            name: MapName::Connections,
            entries: 7,
            capacity: 262_144,
        }],
        endpoints: [("enforce", 2), ("open", 0)].into(),
        devices: [("hooked", 3), ("unhooked", 1)].into(),
        generation: 9,
        source_connected: true,
        board: None,
        plugin: None,
        api: None,
        invalid: 1,
        problems: [(
            "NetworkPolicy bank/broken".to_owned(),
            "spec.ingress[0].ports[0].port".to_owned(),
        )]
        .into(),
    };
    let page = String::from_utf8(metrics.render(&snapshot).unwrap()).unwrap();
    for line in [
        "ringfence_apply_errors_total 1",
        "ringfence_policy_apply_seconds_count{kind=\"Pod\"} 1",
        "ringfence_policy_apply_seconds_bucket{kind=\"Pod\",le=\"0.01\"} 0",
        "ringfence_policy_apply_seconds_bucket{kind=\"Pod\",le=\"0.025\"} 1",
        "ringfence_connections_opened_total{verdict=\"allow\"} 4",
        "ringfence_connections_opened_total{verdict=\"audit\"} 0",
        "ringfence_events_lost_total 2",
        "ringfence_map_entries{map=\"CONNECTIONS\"} 7",
        "ringfence_map_capacity{map=\"CONNECTIONS\"} 262144",
        "ringfence_endpoints{state=\"enforce\"} 2",
        "ringfence_devices{state=\"hooked\"} 3",
        "ringfence_devices{state=\"unhooked\"} 1",
        "ringfence_policy_generation 9",
        "ringfence_clients_refused_total{listener=\"metrics\",reason=\"full\"} 0",
        "ringfence_clients_refused_total{listener=\"socket\",reason=\"not_root\"} 0",
        "ringfence_source_connected 1",
        "ringfence_policy_invalid 1",
        "ringfence_policy_problems{field=\"spec.ingress[0].ports[0].port\",object=\"NetworkPolicy bank/broken\"} 1",
    ] {
        has(&page, line);
    }
    assert!(page.contains("ringfence_build_info{version="));
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("ringfence_"), "{line}");
    }
}

fn endpoint(ingress: &'static str, egress: &'static str, attached: bool) -> EndpointState {
    EndpointState {
        pod: None,
        gone: false,
        reason: None,
        workload: "a/b".into(),
        id: 1,
        slot: 1,
        ifindex: 1,
        interface: "veth".into(),
        addresses: Vec::new(),
        found_by: crate::runtime::FoundBy::Claim,
        ingress,
        egress,
        attached,
        foreign_filters: Vec::new(),
    }
}

#[test]
fn an_endpoint_counts_under_its_stricter_direction() {
    let gone = EndpointState {
        gone: true,
        ..endpoint("closed", "closed", true)
    };
    let endpoints = [
        gone,
        endpoint("open", "enforce", true),
        endpoint("audit", "open", true),
        endpoint("quarantine", "enforce", true),
        endpoint("open", "open", true),
        endpoint("enforce", "enforce", false),
    ];
    let pod = || {
        let (pod, reason) = ("a/c".into(), "why".into());
        UnguardedPod { pod, reason }
    };
    let status = Status {
        unguarded: vec![pod()],
        pending: vec![pod(), pod()],
        host_network: vec![pod()],
        unknown: vec![UnknownDevice {
            device: "veth7".into(),
            pod: None,
            closed: true,
        }],
        ..Status::default()
    };
    let states = count_states(&endpoints, &status);
    let expected = [
        ("audit", 1),
        ("closed", 0),
        ("enforce", 1),
        ("gone", 1),
        ("host_network", 1),
        ("open", 1),
        ("pending", 2),
        ("quarantine", 1),
        ("unguarded", 2),
        ("unknown", 1),
    ];
    assert_eq!(states, expected.into());
}

#[test]
fn more_problems_than_anybody_reads_are_counted_under_other() {
    let problem = |n: usize| (format!("Pod a/{n:04}"), "x/y".to_owned());
    let snapshot = Snapshot {
        problems: (0..300).map(problem).collect(),
        ..Snapshot::default()
    };
    let page = String::from_utf8(Metrics::new().unwrap().render(&snapshot).unwrap()).unwrap();
    has(
        &page,
        "ringfence_policy_problems{field=\"x/y\",object=\"Pod a/0255\"} 1",
    );
    has(
        &page,
        "ringfence_policy_problems{field=\"\",object=\"other\"} 44",
    );
    assert!(!page.contains("a/0256"));
}

#[test]
fn the_page_says_whether_the_network_plugin_is_installed_where_it_should_be() {
    let mut snapshot = Snapshot::default();
    assert!(!page(&snapshot).contains("ringfence_cni"));
    let mut plugin = CniStatus {
        way: Some(Way::List),
        rewrites: 7,
        faults: vec!["a".into(), "b".into()],
        ..CniStatus::default()
    };
    snapshot.plugin = Some(plugin.clone());
    let text = page(&snapshot);
    has(&text, "ringfence_cni_installed 1");
    has(&text, "ringfence_cni_config_rewrites_total 7");
    has(&text, "ringfence_cni_config_faults 2");
    // The chain's entry is present, but the binary is of an older version.
    plugin.error = Some("no room".into());
    snapshot.plugin = Some(plugin);
    has(&page(&snapshot), "ringfence_cni_installed 0");
}

#[test]
fn the_apis_certificate_shows_when_it_expires_and_whether_newer_ones_failed() {
    let page = page(&Snapshot {
        api: Some(RemoteStatus {
            address: "[::]:9436".into(),
            certificate_expires: 1_800_000_000,
            certificate_error: Some("--api-cert /c: no".into()),
            certificate_errors: 3,
        }),
        ..Snapshot::default()
    });
    for line in [
        "ringfence_api_certificate_expiry_timestamp_seconds 1800000000",
        "ringfence_api_certificate_stale 1",
        "ringfence_api_certificate_reload_errors_total 3",
    ] {
        has(&page, line);
    }
}
