//! Tests of the calls that open and close.

use super::*;

fn difference(before: &[Value], after: &[Value], query: &Query) -> Difference {
    let (before, after) = (index(before.to_vec()), index(after.to_vec()));
    Difference::compute(&before, &after, query).expect("a difference")
}

fn edges(edges: &[Edge]) -> Vec<String> {
    let text = |e: &Edge| {
        let ports: Vec<String> = e.ports.iter().map(ToString::to_string).collect();
        format!("{} {} {}", e.from, e.to, ports.join(","))
    };
    edges.iter().map(text).collect()
}

#[test]
fn a_difference_lists_what_opens_and_what_closes() {
    let ports = query(&["TCP/80", "TCP/81", "TCP/82"]);
    let before = [
        ledger("b/ledger", "10.0.0.1"),
        caller("b/api", "10.0.0.2", "80_81"),
    ];
    let after = [
        ledger("b/ledger", "10.0.0.1"),
        caller("b/api", "10.0.0.2", "81_82"),
    ];
    let found = difference(&before, &after, &ports);
    assert_eq!(edges(&found.opens), ["b/api b/ledger TCP/82"]);
    assert_eq!(edges(&found.closes), ["b/api b/ledger TCP/80"]);
    let json = serde_json::to_value(&found).expect("JSON");
    assert_eq!(
        json["opens"],
        json!([{"from": "b/api", "to": "b/ledger", "ports": ["TCP/82"]}])
    );
    let same = difference(&before, &before, &ports);
    assert_eq!((same.opens, same.closes), (Vec::new(), Vec::new()));
}

#[test]
fn what_is_added_opens_what_it_may_call_and_what_goes_closes_it() {
    let ports = query(&["TCP/80"]);
    let old = [ledger("b/ledger", "10.0.0.1")];
    let new = [
        ledger("b/ledger", "10.0.0.1"),
        caller("b/api", "10.0.0.2", "80"),
    ];
    let found = difference(&old, &new, &ports);
    assert_eq!(
        edges(&found.opens),
        ["b/api b/ledger TCP/80", "b/ledger b/api TCP/80"]
    );
    assert_eq!((found.added, found.closes.len()), (texts(&["b/api"]), 0));
    let back = difference(&new, &old, &ports);
    assert_eq!(edges(&back.closes), edges(&found.opens));
    assert_eq!((back.removed, back.opens.len()), (texts(&["b/api"]), 0));
}

#[test]
fn by_workload_pods_may_come_and_go() {
    let by_workload = Query {
        by: By::Workload,
        ..query(&["TCP/80"])
    };
    let pods = |names: [&str; 2]| {
        let [a, b] = [(names[0], "10.0.0.2"), (names[1], "10.0.0.3")];
        let [a, b] = [a, b].map(|(name, ip)| caller(name, ip, "80"));
        [ledger("b/ledger", "10.0.0.1"), a, b]
    };
    let found = difference(
        &pods(["b/api-1", "b/api-2"]),
        &pods(["b/api-3", "b/api-4"]),
        &by_workload,
    );
    assert_eq!((found.opens, found.closes), (Vec::new(), Vec::new()));
}

#[test]
fn some_before_and_some_after_is_looked_at_pod_by_pod() {
    let by_workload = Query {
        by: By::Workload,
        ..query(&["TCP/80"])
    };
    let pods = |ports: [&str; 2]| {
        [
            ledger("b/ledger", "10.0.0.1"),
            caller("b/api-0", "10.0.0.2", ports[0]),
            caller("b/api-1", "10.0.0.3", ports[1]),
        ]
    };
    let found = difference(&pods(["80", "1"]), &pods(["1", "80"]), &by_workload);
    assert_eq!(edges(&found.opens), ["b/api b/ledger TCP/80"]);
    assert_eq!(edges(&found.closes), ["b/api b/ledger TCP/80"]);
    let same = difference(&pods(["80", "1"]), &pods(["80", "1"]), &by_workload);
    assert_eq!((same.opens, same.closes), (Vec::new(), Vec::new()));
    let more = difference(&pods(["80", "1"]), &pods(["80", "80"]), &by_workload);
    assert_eq!((edges(&more.opens).len(), more.closes.len()), (1, 0));
}

#[test]
fn some_before_and_some_after_is_looked_at_address_by_address() {
    let peers = texts(&["192.0.2.0/24"]);
    let with_peer = Query {
        peers,
        ..query(&["TCP/80"])
    };
    let objects = |cidr: &str| [pod("b/p", "10.9.0.1", json!({})), block(cidr, &[])];
    let halves = ["192.0.2.0/25", "192.0.2.128/25"].map(objects);
    let found = difference(&halves[0], &halves[1], &with_peer);
    assert_eq!(edges(&found.opens), ["192.0.2.0/24 b/p TCP/80"]);
    assert_eq!(edges(&found.closes), ["192.0.2.0/24 b/p TCP/80"]);
    let found = difference(&halves[0], &objects("192.0.2.0/26"), &with_peer);
    assert_eq!((found.opens.len(), found.closes.len()), (0, 1));
}

#[test]
fn a_name_need_mean_something_in_one_folder_only() {
    let old = [ledger("b/ledger", "10.0.0.1")];
    let new = [
        ledger("b/ledger", "10.0.0.1"),
        caller("b/api", "10.0.0.2", "80"),
    ];
    let narrowed = |name: &str| Query {
        from: texts(&[name]),
        ..query(&["TCP/80"])
    };
    let found = difference(&old, &new, &narrowed("b/api"));
    assert_eq!(edges(&found.opens), ["b/api b/ledger TCP/80"]);
    let [old, new] = [old.to_vec(), new.to_vec()].map(index);
    assert!(Difference::compute(&old, &new, &narrowed("b/none")).is_err());
}
