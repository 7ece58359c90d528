//! One answer of each kind, with every field set.

use crate::*;

pub(super) fn status() -> Status {
    let pods = |reason: &str| {
        let (pod, reason) = ("bank/a".to_owned(), reason.to_owned());
        vec![UnguardedPod { pod, reason }]
    };
    let watch = |state: &WatchState| WatchStatus {
        kind: "Pod".into(),
        state: state.clone(),
        since: 1_700_000_000,
        listed: true,
        error: Some("no data for 90 s".into()),
        errors: 1,
        lists: 2,
    };
    Status {
        version: "0.1.0".into(),
        node: "n".into(),
        mode: Mode::Enforce,
        source: "the API server".into(),
        source_connected: true,
        waits_for: vec!["Pod".into()],
        watches: WatchState::KNOWN.iter().map(watch).collect(),
        pid: 42,
        took_over: Some("0.0.9".into()),
        picked_up: 1,
        passes: 2,
        apply_errors: 3,
        error: Some("map RULES is full".into()),
        generation: u64::MAX,
        endpoints: 4,
        unguarded: pods("why"),
        pending: pods("yet"),
        host_network: pods("host network"),
        closed: vec!["bank/b".into()],
        unknown: vec![UnknownDevice {
            device: "veth7".into(),
            pod: Some("bank/c".into()),
            closed: true,
        }],
        devices: 5,
        unhooked: vec![UnhookedDevice {
            device: "eth0".into(),
            reason: "why".into(),
        }],
        node_addresses: vec![[10, 0, 0, 1].into(), [0; 16].into()],
        pod_ranges: Some(vec!["10.0.0.0/8".into()]),
        tunnel_ports: vec![8472],
        seen_mark: Some(SeenMark {
            bit: 0x1000,
            asked: true,
        }),
        node_faults: vec!["why".into()],
        invalid: vec!["a.yaml: no".into()],
        problems: vec!["Pod bank/a: label: no".into()],
        skipped: vec!["/run/netns/x: no".into()],
        plugin: Some(CniStatus {
            list: Some("/etc/cni/net.d/1.conflist".into()),
            way: None,
            rewrites: 6,
            error: Some("why".into()),
            faults: vec!["why".into()],
        }),
        metrics: Some(Scrapes {
            address: "0.0.0.0:9435".into(),
            last: Some(1_700_000_000),
        }),
        api: Some(RemoteStatus {
            address: "[::]:9436".into(),
            certificate_expires: -1,
            certificate_error: Some("why".into()),
            certificate_errors: 7,
        }),
    }
}

pub(super) fn endpoint() -> Endpoint {
    Endpoint {
        pod: Some("bank/ledger-0".into()),
        gone: false,
        reason: None,
        workload: "bank/ledger".into(),
        id: 7,
        slot: 1,
        ifindex: 12,
        interface: "veth12".into(),
        addresses: ["10.0.0.2", "fd00::2"]
            .map(|text| text.parse().unwrap())
            .into(),
        found_by: FoundBy::CniCache,
        ingress: Enforcement::Enforce,
        egress: Enforcement::Open,
        attached: true,
        foreign_filters: vec!["ingress bpf x (priority 2)".into()],
    }
}

pub(super) fn connection() -> Connection {
    Connection {
        pod: "bank/ledger-0".into(),
        local: [10, 0, 0, 2].into(),
        local_port: 8080,
        remote: "fd00::3".parse().unwrap(),
        remote_port: 40_000,
        protocol: Protocol::Tcp,
        peer: "bank/web".into(),
        opened: Direction::Ingress,
        state: ConnectionState::HalfClosed,
        picked_up: true,
        age: 60,
        idle: 2,
        packets: [1, 2],
        bytes: [60, 120],
    }
}

pub(super) fn drops() -> DropSeries {
    DropSeries {
        source: "bank/rogue".into(),
        destination: "bank/ledger".into(),
        direction: Direction::Egress,
        reason: Reason::Policy,
        protocol: Protocol::Udp,
        audited: false,
        packets: 2,
        bytes: 120,
    }
}

pub(super) fn event() -> Event {
    Event {
        time: u64::MAX,
        source: "bank/rogue".into(),
        destination: "outside".into(),
        source_address: [10, 0, 0, 1].into(),
        destination_address: "fd00::2".parse().unwrap(),
        source_port: 4000,
        destination_port: 80,
        protocol: Protocol::Icmp,
        direction: Direction::Egress,
        reason: Reason::Policy,
        audited: false,
        len: 98,
        detail: 8,
    }
}
