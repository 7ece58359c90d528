//! Corners 1 to 8: addresses, ports and protocols.

use serde_json::{Value, json};

use super::wire::{Wire, closed, policy};

/// Returns the blocks of each family.
fn blocks(v4: Value, v6: Value) -> Value {
    json!([{"ipBlock": v4}, {"ipBlock": v6}])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corner_01_a_closed_pod_reaches_its_node_and_its_node_reaches_it() {
    let wire = Wire::open();
    wire.under(
        &[closed("server")],
        &[
            ("node", "server", "TCP/8080", true),
            ("node", "server", "UDP/5353", true),
            ("node", "server", "ICMP", true),
            ("node", "server", "SCTP/7", true),
            ("server", "node", "TCP/8080", true),
            ("server", "node", "UDP/5353", true),
            ("server", "node", "ICMP", true),
            ("outside", "server", "TCP/8080", false),
            ("client", "server", "TCP/8080", false),
            ("server", "outside", "TCP/8080", false),
            ("server", "client", "ICMP", false),
        ],
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corners_02_and_03_a_pod_reaches_itself_through_its_service_and_ports_are_the_pods() {
    let wire = Wire::open();
    // Masqueraded: the server sees the node's address for all callers.
    wire.service(true);
    wire.under(
        &[policy("closed", "server", json!({}))],
        &[
            ("server", "server", "TCP/8080", true),
            ("server", "server", "ICMP", true),
            ("server", "service", "TCP/90", true),
            ("client", "service", "TCP/90", false),
            ("node", "service", "TCP/90", true),
        ],
    );
    wire.under(
        &[closed("server")],
        &[("server", "server", "TCP/8080", true)],
    );
    wire.service(false);
    let on = |port: u16| {
        let rule = json!({"from": [{"podSelector": {}}], "ports": [{"port": port}]});
        policy("server", "server", json!({"ingress": [rule]}))
    };
    wire.under(&[on(8080)], &[("client", "service", "TCP/90", true)]);
    wire.under(&[on(90)], &[("client", "service", "TCP/90", false)]);
    let to = |port: u16| {
        let rule = json!({"to": [{"podSelector": {}}], "ports": [{"port": port}]});
        policy(
            "client",
            "client",
            json!({"policyTypes": ["Egress"], "egress": [rule]}),
        )
    };
    wire.under(&[to(8080)], &[("client", "server", "TCP/8080", true)]);
    wire.under(&[to(90)], &[("client", "server", "TCP/8080", false)]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corners_04_and_05_blocks_match_pods_and_an_exception_narrows_its_own_block() {
    let wire = Wire::open();
    let narrowed = || {
        blocks(
            json!({"cidr": "10.244.0.0/16", "except": ["10.244.0.12/31"]}),
            json!({"cidr": "fd00::/8", "except": ["fd00:10:244::c/127"]}),
        )
    };
    wire.from(
        narrowed(),
        &[
            ("client", "server", "TCP/8080", true),
            ("client", "server", "ICMP", true),
            ("other", "server", "TCP/8080", false),
            ("far", "server", "UDP/5353", false),
            ("outside", "server", "TCP/8080", false),
        ],
    );
    corner_05_other_policies_may_allow_what_an_exception_leaves_out(&wire, narrowed());
    corner_04_blocks_match_pods_in_egress_too(&wire);
}

fn corner_05_other_policies_may_allow_what_an_exception_leaves_out(wire: &Wire, narrowed: Value) {
    let second = blocks(
        json!({"cidr": "10.244.0.13/32"}),
        json!({"cidr": "fd00:10:244::d/128"}),
    );
    let rules = json!({"ingress": [{"from": narrowed}]});
    let more = json!({"ingress": [{"from": second}]});
    wire.under(
        &[
            policy("one", "server", rules),
            policy("two", "server", more),
        ],
        &[
            ("client", "server", "TCP/8080", true),
            ("other", "server", "TCP/8080", false),
            ("far", "server", "TCP/8080", true),
        ],
    );
}

fn corner_04_blocks_match_pods_in_egress_too(wire: &Wire) {
    let to = blocks(
        json!({"cidr": "203.0.113.0/24"}),
        json!({"cidr": "fd00:10:244::c/128"}),
    );
    let egress = json!({"policyTypes": ["Egress"], "egress": [{"to": to}]});
    wire.under(
        &[policy("out", "server", egress)],
        &[("server", "far", "TCP/8080", false)],
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corner_06_named_ports_resolve_per_destination_pod_also_for_an_empty_to() {
    let wire = Wire::open();
    for to in [json!([]), json!([{"podSelector": {}}])] {
        let rule = json!({"to": to, "ports": [{"port": "http"}]});
        let egress = json!({"policyTypes": ["Egress"], "egress": [rule]});
        wire.under(
            &[policy("out", "", egress)],
            &[
                ("other", "server", "TCP/8080", true),
                ("other", "server", "TCP/8081", false),
                ("other", "client", "TCP/8081", true),
                ("other", "client", "TCP/8080", false),
                ("client", "other", "TCP/8080", false),
                ("client", "outside", "TCP/8080", false),
                ("server", "server", "TCP/8081", true),
            ],
        );
    }
    let udp = json!({"port": "http", "protocol": "UDP"});
    let ports = json!({"ingress": [{"ports": [udp]}]});
    wire.under(
        &[policy("in", "", ports)],
        &[("other", "server", "TCP/8080", false)],
    );
    let ports = json!({"ingress": [{"ports": [{"port": "http"}]}]});
    wire.under(
        &[policy("in", "", ports)],
        &[
            ("other", "server", "TCP/8080", true),
            ("outside", "client", "TCP/8081", true),
            ("other", "client", "TCP/8080", false),
        ],
    );
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn corners_07_and_08_ranges_and_protocols_mean_what_they_say() {
    let wire = Wire::open();
    wire.under(
        &[on(json!([{"port": 8079, "endPort": 8080}, {"port": 5353}]))],
        &[
            ("client", "server", "TCP/8078", false),
            ("client", "server", "TCP/8079", true),
            ("client", "server", "TCP/8080", true),
            ("client", "server", "TCP/8081", false),
            ("client", "server", "TCP/5353", true),
            ("client", "server", "UDP/5353", false),
        ],
    );
    wire.under(
        &[on(json!([{"protocol": "UDP"}]))],
        &[
            ("client", "server", "UDP/5353", true),
            ("client", "server", "UDP/5354", true),
            ("client", "server", "TCP/8080", false),
        ],
    );
    wire.under(
        &[on(
            json!([{"protocol": "SCTP", "port": 8080}, {"protocol": "TCP", "port": 8081}]),
        )],
        &[
            ("client", "server", "SCTP/8080", true),
            ("client", "server", "SCTP/8081", false),
            ("client", "server", "TCP/8080", false),
            ("client", "server", "TCP/8081", true),
        ],
    );
    corner_08_only_a_rule_without_ports_is_about_every_protocol(&wire);
}

/// Returns a policy that allows all ingress to the server on these ports.
fn on(ports: Value) -> Value {
    policy("server", "server", json!({"ingress": [{"ports": ports}]}))
}

fn corner_08_only_a_rule_without_ports_is_about_every_protocol(wire: &Wire) {
    let every = ["TCP/8080", "UDP/5353", "SCTP/7", "ICMP", "253"];
    let rows = |from, allowed: fn(&str) -> bool| every.map(|on| (from, "server", on, allowed(on)));
    let whole = json!([{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]);
    wire.under(&[on(whole)], &rows("client", |on| on.contains('/')));
    wire.from(
        json!([{"podSelector": {"matchLabels": {"app": "client"}}}]),
        &[rows("client", |_| true), rows("other", |_| false)].concat(),
    );
}
