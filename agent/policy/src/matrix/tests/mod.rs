//! Tests of cells, names and addresses.

mod diff;

use serde_json::{Value, json};

use super::*;
use crate::testing::{index, netpol, pod};

fn query(ports: &[&str]) -> Query {
    Query {
        ports: ports.iter().map(|p| p.parse().expect(p)).collect(),
        ..Query::default()
    }
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn json_of(objects: &[Value], query: &Query) -> Value {
    let matrix = Matrix::compute(&index(objects.to_vec()), query).expect("a matrix");
    serde_json::to_value(&matrix).expect("JSON")
}

fn ledger(name: &str, ip: &str) -> Value {
    let labels = json!({"app": "ledger", "ringfence.dev/ingress": "enforce"});
    pod(name, ip, labels)
}

fn caller(name: &str, ip: &str, value: &str) -> Value {
    pod(
        name,
        ip,
        json!({"app": "api", "egress.ringfence.dev/ledger": value}),
    )
}

fn block(cidr: &str, except: &[&str]) -> Value {
    let block = json!({"cidr": cidr, "except": except});
    netpol(
        "b/block",
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}),
    )
}

#[test]
fn cells_say_port_by_port_who_reaches_whom() {
    let labels = json!({"app": "api", "egress.ringfence.dev/ledger": "80"});
    let workload = json!({"kind": "Deployment", "metadata": {"name": "api", "namespace": "b"},
        "spec": {"template": {"metadata": {"labels": labels}}}});
    let objects = [ledger("b/ledger", "10.0.0.1"), workload];
    let json = json_of(&objects, &query(&["TCP/80", "ICMP"]));
    assert_eq!(json["ports"], json!(["TCP/80", "ICMP"]));
    assert_eq!(json["pods"], json!(["b/api", "b/ledger"]));
    assert_eq!(
        json["allowed"]["b/api"],
        json!({"b/api": "..", "b/ledger": ".X"})
    );
    assert_eq!(
        json["allowed"]["b/ledger"],
        json!({"b/api": "..", "b/ledger": ".."})
    );
    assert_eq!(json["egress"]["b/api"]["b/ledger"], "..");
}

#[test]
fn a_real_pod_takes_its_workloads_place() {
    let workload = json!({"kind": "Deployment", "metadata": {"name": "api", "namespace": "b"}});
    let mut real = pod("b/api-7c9fb5d6b8-x", "10.0.0.1", json!({}));
    real["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": "api-7c9fb5d6b8"}]);
    let json = json_of(&[workload, real], &query(&[]));
    assert_eq!(json["pods"], json!(["b/api-7c9fb5d6b8-x"]));
}

#[test]
fn a_pod_under_quarantine_reaches_only_itself() {
    let cut_off = pod(
        "b/q",
        "10.0.0.1",
        json!({"ringfence.dev/quarantine": "true"}),
    );
    let json = json_of(
        &[cut_off, pod("b/p", "10.0.0.2", json!({}))],
        &query(&["TCP/1"]),
    );
    assert_eq!(json["allowed"]["b/q"], json!({"b/q": ".", "b/p": "X"}));
    assert_eq!(json["allowed"]["b/p"]["b/q"], "X");
}

#[test]
fn names_narrow_rows_and_columns() {
    let objects = [
        ledger("b/ledger-0", "10.0.0.1"),
        caller("b/api-0", "10.0.0.2", "true"),
        pod("c/other", "10.0.0.3", json!({})),
    ];
    let narrowed = Query {
        from: texts(&["b/api", "c/"]),
        to: texts(&["pod:b/ledger-0"]),
        ..query(&["TCP/80"])
    };
    let json = json_of(&objects, &narrowed);
    let expected = json!({"b/api-0": {"b/ledger-0": "."}, "c/other": {"b/ledger-0": "X"}});
    assert_eq!(json["allowed"], expected);
    assert_eq!(json["pods"], json!(["b/api-0", "b/ledger-0", "c/other"]));
}

#[test]
fn names_that_mean_nothing_are_refused() {
    let index = index([pod("b/p", "10.0.0.1", json!({}))]);
    let ask = |name: &str| {
        let from = texts(&[name]);
        Matrix::compute(&index, &Query { from, ..query(&[]) }).map(|_| ())
    };
    for unknown in ["b/none", "none", "none/", "svc:b/none"] {
        let found = ask(unknown);
        assert!(
            matches!(found, Err(MatrixError::Name(NameError::Unknown { .. }))),
            "{unknown}"
        );
    }
    for malformed in ["", "/", "a/b/c", "pod:b"] {
        let found = ask(malformed);
        assert!(
            matches!(found, Err(MatrixError::Name(NameError::Malformed { .. }))),
            "{malformed}"
        );
    }
    assert!(ask("::ffff:10.0.0.0/104").is_err() && ask("10.0.0.0/8").is_ok());
    let peers = texts(&["b/p"]);
    let found = Matrix::compute(
        &index,
        &Query {
            peers,
            ..query(&[])
        },
    )
    .map(|_| ());
    assert_eq!(found, Err(MatrixError::Peer("b/p".into())));
}

#[test]
fn more_ports_than_a_cell_holds_are_refused() {
    let ports: Vec<String> = (1..=65).map(|n| format!("TCP/{n}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let index = index([ledger("b/l", "10.0.0.1"), pod("b/p", "10.0.0.2", json!({}))]);
    let found = Matrix::compute(&index, &query(&ports)).map(|_| ());
    assert_eq!(found, Err(MatrixError::Ports(65)));
    let matrix = Matrix::compute(&index, &query(&ports[..64])).expect("64 fit");
    let [closed, open] = [[1, 0], [0, 1]].map(|[from, to]| {
        let mut text = String::new();
        let cell = matrix.cell(from, to, Part::Allowed).expect("between pods");
        cell.write(64, &mut text);
        text
    });
    assert_eq!([closed, open], ["X".repeat(64), ".".repeat(64)]);
}

#[test]
fn a_workloads_cell_says_whether_all_some_or_none_of_its_pods_are_allowed() {
    let objects = [
        ledger("b/ledger-0", "10.0.0.1"),
        ledger("b/ledger-1", "10.0.0.2"),
        caller("b/api-0", "10.0.0.3", "80"),
        caller("b/api-1", "10.0.0.4", "80_81"),
    ];
    let by_workload = Query {
        by: By::Workload,
        ..query(&["TCP/80", "TCP/81", "TCP/82"])
    };
    let json = json_of(&objects, &by_workload);
    assert_eq!(json["pods"], json!(["b/api", "b/ledger"]));
    assert_eq!(json["allowed"]["b/api"]["b/ledger"], ".~X");
    // Each ledger reaches itself but not the other.
    assert_eq!(json["allowed"]["b/ledger"]["b/ledger"], "~~~");
    assert_eq!(json["allowed"]["b/api"]["b/api"], "...");
    let single = json_of(&objects[..1], &by_workload);
    assert_eq!(single["allowed"]["b/ledger"]["b/ledger"], "...");
}

#[test]
fn a_workload_to_itself_is_about_the_pods_that_names_leave() {
    let objects = [
        ledger("b/ledger-0", "10.0.0.1"),
        ledger("b/ledger-1", "10.0.0.2"),
    ];
    let cell = |from: &str, to: &str| {
        let narrowed = Query {
            from: texts(&[from]),
            to: texts(&[to]),
            by: By::Workload,
            ..query(&["TCP/80"])
        };
        json_of(&objects, &narrowed)["allowed"]["b/ledger"]["b/ledger"].clone()
    };
    assert_eq!(cell("b/ledger-0", "b/ledger-0"), ".");
    assert_eq!(cell("b/ledger-0", "b/ledger-1"), "X");
    assert_eq!(cell("b/ledger", "b/ledger-1"), "~");
}

#[test]
fn a_cidr_is_all_some_or_none_of_its_addresses() {
    let objects = [
        pod("b/p", "10.9.0.1", json!({})),
        block("192.0.2.0/24", &["192.0.2.128/25", "192.0.2.7/32"]),
    ];
    let peers = [
        ("192.0.2.0/30", "."),
        ("192.0.2.0/25", "~"),
        ("192.0.2.7", "X"),
        ("192.0.2.128/26", "X"),
        ("192.0.0.0/16", "~"),
        ("198.51.100.1/24", "X"),
        ("0.0.0.0/0", "~"),
        ("::/0", "X"),
    ];
    let asked = Query {
        peers: peers.map(|(peer, _)| peer.to_owned()).into(),
        ..query(&["TCP/80"])
    };
    let json = json_of(&objects, &asked);
    for (peer, cell) in peers {
        assert_eq!(json["allowed"][peer]["b/p"], cell, "from {peer}");
        assert_eq!(json["ingress"][peer]["b/p"], cell, "from {peer}");
        assert_eq!(json["egress"][peer]["b/p"], ".", "from {peer}");
        assert_eq!(json["allowed"]["b/p"][peer], ".", "to {peer}");
        assert_eq!(json["allowed"][peer][peer], Value::Null);
    }
}

#[test]
fn a_block_that_its_exceptions_fill_has_no_address_of_its_own() {
    let halves = ["192.0.2.0/25", "192.0.2.128/25"];
    let objects = [
        pod("b/p", "10.9.0.1", json!({})),
        block("192.0.2.0/24", &halves),
    ];
    let peers = texts(&["192.0.2.0/24"]);
    let json = json_of(
        &objects,
        &Query {
            peers,
            ..query(&["TCP/80"])
        },
    );
    assert_eq!(json["allowed"]["192.0.2.0/24"]["b/p"], "X");
}

#[test]
fn a_pods_address_in_a_cidr_counts_as_that_pod() {
    let objects = [
        ledger("b/ledger", "10.0.0.1"),
        caller("b/api", "10.0.0.2", "80"),
        pod("b/other", "10.0.0.3", json!({})),
    ];
    let cell = |peer: &str, to: &str| {
        let peers = texts(&[peer]);
        json_of(
            &objects,
            &Query {
                peers,
                ..query(&["TCP/80"])
            },
        )["allowed"][peer][to]
            .clone()
    };
    assert_eq!(cell("10.0.0.2", "b/ledger"), ".");
    assert_eq!(cell("10.0.0.3", "b/ledger"), "X");
    // Only the ledger's own address and the API's are allowed.
    assert_eq!(cell("10.0.0.1", "b/ledger"), ".");
    assert_eq!(cell("10.0.0.0/30", "b/ledger"), "~");
    assert_eq!(cell("10.0.0.4/30", "b/ledger"), "X");
}

#[test]
fn a_pods_own_node_always_reaches_it() {
    let node = |name: &str, ip: &str| {
        json!({"kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
    };
    let objects = [
        ledger("b/ledger", "10.0.0.1"),
        node("n1", "172.16.0.1"),
        node("n2", "172.16.0.2"),
    ];
    let peers = texts(&["172.16.0.1", "172.16.0.2", "172.16.0.0/24"]);
    let json = json_of(
        &objects,
        &Query {
            peers,
            ..query(&["TCP/80"])
        },
    );
    let cells = ["172.16.0.1", "172.16.0.2", "172.16.0.0/24"];
    let cells = cells.map(|peer| json["allowed"][peer]["b/ledger"].clone());
    assert_eq!(cells, [".", "X", "~"]);
}

#[test]
fn made_up_addresses_belong_to_no_cidr() {
    let workload = json!({"kind": "Deployment", "metadata": {"name": "api", "namespace": "b"},
        "spec": {"template": {"metadata": {"labels":
            {"app": "api", "egress.ringfence.dev/ledger": "80"}}}}});
    let objects = [ledger("b/ledger", "10.0.0.1"), workload];
    let peers = texts(&["240.0.0.0/4"]);
    let json = json_of(
        &objects,
        &Query {
            peers,
            ..query(&["TCP/80"])
        },
    );
    assert_eq!(json["allowed"]["b/api"]["b/ledger"], ".");
    assert_eq!(json["allowed"]["240.0.0.0/4"]["b/ledger"], "X");
}

#[test]
fn addresses_can_be_callers_alone_or_callees_alone() {
    let objects = [
        ledger("b/ledger", "10.0.0.1"),
        pod("b/p", "10.0.0.2", json!({})),
    ];
    let index = index(objects);
    let open = |from: &[&str], to: &[&str]| {
        let (from, to) = (texts(from), texts(to));
        let matrix = Matrix::compute(
            &index,
            &Query {
                from,
                to,
                ..query(&["TCP/80"])
            },
        );
        matrix.expect("a matrix").is_open()
    };
    assert!(!open(&["10.0.0.2", "::/0"], &["b/ledger"]));
    assert!(!open(&["203.0.113.0/24"], &["b/ledger"]));
    assert!(open(&["203.0.113.0/24"], &["b/p"]));
    assert!(open(&["b/ledger"], &["203.0.113.0/24"]));
    assert!(
        !open(&["b/ledger"], &["b/ledger"]),
        "a pod to itself isn't open"
    );
}

/// Returns a pod with an address of each family.
fn dual(name: &str, last: u8, labels: Value) -> Value {
    let mut pod = pod(name, &format!("10.0.0.{last}"), labels);
    pod["status"]["podIPs"] =
        json!([{"ip": format!("10.0.0.{last}")}, {"ip": format!("fd00::{last}")}]);
    pod
}

#[test]
fn a_door_that_is_open_over_one_family_alone_is_shown_and_counts() {
    let pods = [
        dual("b/a", 1, json!({"app": "a"})),
        dual("b/c", 2, json!({"app": "c"})),
    ];
    let only = |cidr: &str| {
        let rules = json!([{"from": [{"ipBlock": {"cidr": cidr}}]}]);
        netpol(
            "b/p",
            json!({"podSelector": {"matchLabels": {"app": "c"}}, "ingress": rules}),
        )
    };
    let with = |cidr: &str| [pods.to_vec(), vec![only(cidr)]].concat();
    for (cidr, shown) in [
        ("10.0.0.0/8", "~"),
        ("fd00::/16", "~"),
        ("10.9.0.0/16", "X"),
    ] {
        let json = json_of(&with(cidr), &query(&["TCP/80"]));
        assert_eq!(json["allowed"]["b/a"]["b/c"], shown, "{cidr}");
        assert_eq!(json["egress"]["b/a"]["b/c"], ".", "{cidr}");
    }
    let ask = query(&["TCP/80"]);
    let [before, after] = ["10.0.0.0/8", "fd00::/16"].map(|cidr| index(with(cidr)));
    for index in [&before, &after] {
        let only = Query {
            from: texts(&["b/a"]),
            to: texts(&["b/c"]),
            ..ask.clone()
        };
        assert!(Matrix::compute(index, &only).expect("a matrix").is_open());
    }
    let said = Difference::compute(&before, &after, &ask).expect("a difference");
    for edges in [&said.opens, &said.closes] {
        let ends: Vec<_> = edges
            .iter()
            .map(|e| (e.from.as_str(), e.to.as_str()))
            .collect();
        assert_eq!(ends, [("b/a", "b/c")], "{said:?}");
    }
}
