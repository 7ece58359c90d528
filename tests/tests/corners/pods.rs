//! Corners 9 to 17: which pods a policy applies to, and when.

use serde_json::{Value, json};

use super::wire::{Wire, addresses, closed, pod, policy};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corner_09_an_address_is_the_running_pods_and_a_finished_one_has_lost_it() {
    let wire = Wire::open();
    let client = || pod("shop/client", 11, json!({"app": "client"}));
    let peers = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    wire.from(
        peers,
        &[
            ("client", "server", "TCP/8080", true),
            ("other", "server", "TCP/8080", false),
        ],
    );
    // Another pod object that shows the address of `other` without having it.
    let mut late = pod("shop/late", 12, json!({"app": "client"}));
    late["status"]["phase"] = json!("Pending");
    wire.write("late", &[late]);
    let mut leaving = client();
    leaving["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
    wire.write("client", &[leaving]);
    wire.settle();
    wire.sees(&[
        ("client", "server", "TCP/8080", true),
        ("other", "server", "TCP/8080", false),
    ]);
    // The client is done; the pod that has its address now isn't an allowed peer.
    let mut done = client();
    done["status"]["phase"] = json!("Succeeded");
    let heir = pod("shop/heir", 11, json!({"app": "heir"}));
    wire.write("client", &[done, heir]);
    wire.agent.wait_for("shop/heir").unwrap();
    wire.sees(&[
        ("client", "server", "TCP/8080", false),
        ("client", "other", "TCP/8080", true),
    ]);
    let heir = pod("shop/heir", 11, json!({"app": "client"}));
    wire.write("client", &[heir]);
    wire.agent.wait_for("shop/heir").unwrap();
    wire.sees(&[("client", "server", "TCP/8080", true)]);
}

/// Makes the server allow these peers; `who` names which of the other pods get through.
fn admits(wire: &Wire, peers: Value, who: &str) {
    let row = |from| {
        (
            from,
            "server",
            "TCP/8080",
            who.split(' ').any(|w| w == from),
        )
    };
    wire.from(peers, &["client", "other", "far", "outside"].map(row));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corners_11_and_14_selectors_select_whom_they_say() {
    let wire = Wire::open();
    let team = json!({"matchLabels": {"team": "x"}});
    let clients = json!({"matchLabels": {"app": "client"}});
    admits(&wire, json!([{"podSelector": {}}]), "client other");
    admits(&wire, json!([{"podSelector": clients}]), "client");
    let both = json!([{"namespaceSelector": team, "podSelector": clients}]);
    admits(&wire, both, "far");
    let either = json!([{"namespaceSelector": team}, {"podSelector": clients}]);
    admits(&wire, either, "client far");
    let everybody = json!([{"namespaceSelector": {}}]);
    admits(&wire, everybody, "client other far");
    wire.under(
        &[policy("all", "", json!({}))],
        &[
            ("far", "server", "TCP/8080", false),
            ("far", "client", "TCP/8080", false),
            ("server", "far", "TCP/8080", true),
        ],
    );
    corner_14_where_a_key_is_absent(&wire);
}

fn corner_14_where_a_key_is_absent(wire: &Wire) {
    let matches = |key: &str, operator: &str, values: Value| {
        let requirement = json!({"key": key, "operator": operator, "values": values});
        json!({"matchExpressions": [requirement]})
    };
    let pods = |pods: Value| json!([{"namespaceSelector": {}, "podSelector": pods}]);
    let absent = matches("tier", "DoesNotExist", json!([]));
    admits(wire, pods(absent), "client other far");
    let not_a = matches("tier", "NotIn", json!(["a"]));
    admits(wire, pods(not_a), "client other far");
    admits(wire, pods(matches("tier", "Exists", json!([]))), "");
    let not_clients = matches("app", "NotIn", json!(["client"]));
    admits(wire, pods(not_clients), "other");
    let not_x = matches("team", "NotIn", json!(["x"]));
    admits(wire, json!([{"namespaceSelector": not_x}]), "client other");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corners_12_and_13_what_is_left_out_means_what_the_api_says() {
    let wire = Wire::open();
    let (inward, outward) = (
        ("client", "server", "TCP/8080"),
        ("server", "other", "UDP/5353"),
    );
    let with = |row: (&'static str, &'static str, &'static str), may| (row.0, row.1, row.2, may);
    let to = json!([{"to": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}]);
    for (spec, comes_in, goes_out) in [
        (json!({}), false, true),
        (json!({"ingress": []}), false, true),
        (json!({"ingress": [{}]}), true, true),
        (json!({"ingress": [{"from": [], "ports": []}]}), true, true),
        (
            json!({"ingress": [{"from": [], "ports": [{"port": 8080}]}]}),
            true,
            true,
        ),
        (
            json!({"ingress": [{"from": [{"podSelector": {}}], "ports": []}]}),
            true,
            true,
        ),
        (json!({"egress": []}), false, true),
        (json!({"egress": to}), false, false),
        (json!({"egress": [{}]}), false, true),
        (
            json!({"policyTypes": ["Ingress"], "egress": to}),
            false,
            true,
        ),
        (json!({"policyTypes": ["Egress"]}), true, false),
    ] {
        let rows = [with(inward, comes_in), with(outward, goes_out)];
        wire.under(&[policy("server", "server", spec)], &rows);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corner_15_relabelling_counts_at_once_for_subjects_peers_and_namespaces() {
    let wire = Wire::open();
    let relabel = |file: &str, name: &str, number: u8, app: &str| {
        wire.write(file, &[pod(name, number, json!({"app": app}))]);
        wire.settle();
    };
    let far = ("far", "server", "TCP/8080");
    let clients = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    wire.from(clients, &[("client", "server", "TCP/8080", true)]);
    relabel("client", "shop/client", 11, "another");
    wire.sees(&[("client", "server", "TCP/8080", false)]);
    relabel("server", "shop/server", 10, "another");
    wire.sees(&[("client", "server", "TCP/8080", true)]);
    relabel("server", "shop/server", 10, "server");
    let team = json!([{"namespaceSelector": {"matchLabels": {"team": "x"}}}]);
    wire.from(team, &[(far.0, far.1, far.2, true)]);
    wire.namespaces(json!({"team": "x"}), json!({"team": "y"}));
    wire.settle();
    wire.sees(&[
        (far.0, far.1, far.2, false),
        ("other", "server", "TCP/8080", true),
    ]);
    let named =
        json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "far"}}}]);
    wire.from(
        named,
        &[
            (far.0, far.1, far.2, true),
            ("other", "server", "TCP/8080", false),
        ],
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corner_16_both_ends_must_allow_and_replies_need_no_rule() {
    let wire = Wire::open();
    let server = json!([{"podSelector": {"matchLabels": {"app": "server"}}}]);
    let client = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    let types = json!(["Ingress", "Egress"]);
    let caller = policy(
        "caller",
        "client",
        json!({"policyTypes": types, "egress": [{"to": server}]}),
    );
    let callee = policy(
        "callee",
        "server",
        json!({"policyTypes": types, "ingress": [{"from": client}]}),
    );
    let both =
        |allowed| ["TCP/8080", "UDP/5353", "ICMP"].map(|on| ("client", "server", on, allowed));
    wire.under(&[caller.clone(), closed("server")], &both(false));
    wire.under(&[closed("client"), callee.clone()], &both(false));
    let back = ["TCP/8080", "UDP/5353", "ICMP"].map(|on| ("server", "client", on, false));
    wire.under(&[caller, callee], &[both(true), back].concat());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corner_17_the_first_packet_of_a_pod_is_under_policy() {
    let mut wire = Wire::open();
    let peers = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    let types = json!(["Ingress", "Egress"]);
    let born = policy(
        "born",
        "born",
        json!({"policyTypes": types, "ingress": [{"from": peers}]}),
    );
    wire.under(&[born], &[]);
    // The object comes first, then its address, then the interface.
    let whole = pod("shop/born", 14, json!({"app": "born"}));
    let mut unborn = whole.clone();
    unborn["status"] = json!({"phase": "Pending"});
    wire.write("born", &[unborn]);
    wire.settle();
    wire.write("born", &[whole]);
    wire.settle();
    wire.net.add_pod("born", &addresses(14)).unwrap();
    wire.serve("born");
    wire.agent.wait_for("shop/born").unwrap();
    wire.sees(&[
        ("client", "born", "TCP/8080", true),
        ("client", "born", "UDP/5353", true),
        ("other", "born", "TCP/8080", false),
        ("outside", "born", "UDP/5353", false),
        ("born", "other", "TCP/8080", false),
        ("born", "outside", "ICMP", false),
        ("node", "born", "TCP/8080", true),
    ]);
}
