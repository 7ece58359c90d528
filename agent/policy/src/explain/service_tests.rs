//! Calls to Services' addresses, as nodes forward them.

use serde_json::{Value, json};

use super::{Backend, Explanation, Verdict, explain};
use crate::{
    explain::ExplainError,
    testing::{index, netpol, pod, pod_with},
};

/// Returns a caller that may only call pods of `tier: good`, on 8080; a Service with a good and a
/// bad pod; and a Service port that refers to the pods' port by name.
fn cluster() -> Vec<Value> {
    let http = json!([{"name": "http", "containerPort": 8080}]);
    let backend = |name: &str, ip: &str, tier: &str| {
        let labels = json!({"app": "web", "tier": tier});
        pod_with(&format!("b/{name}"), ip, labels, http.clone())
    };
    vec![
        pod("b/caller", "10.0.0.1", json!({"app": "caller"})),
        backend("good", "10.0.0.2", "good"),
        backend("bad", "10.0.0.3", "bad"),
        json!({
            "kind": "Service", "metadata": {"namespace": "b", "name": "front"},
            "spec": {
                "selector": {"app": "web"}, "clusterIP": "10.96.0.7", "externalIPs": ["10.0.0.1"],
                "ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 9000}],
            },
        }),
        netpol(
            "b/caller",
            json!({
                "podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{"podSelector": {"matchLabels": {"tier": "good"}}}],
                    "ports": [{"port": 8080}],
                }],
            }),
        ),
    ]
}

fn ask(objects: &[Value], from: &str, to: &str, port: &str) -> Result<Explanation, ExplainError> {
    let port = port.parse().expect(port);
    explain(&index(objects.to_vec()), from, to, &port)
}

fn backends(found: &Explanation) -> Vec<(&str, String, Verdict)> {
    let via = found.via.as_ref().expect("a Service was called");
    let row = |b: &Backend| (b.port.to_string(), b.verdict);
    let all = via.backends.iter();
    all.map(|b| (b.name.as_str(), row(b).0, row(b).1)).collect()
}

#[test]
fn a_services_address_is_judged_by_backend_on_the_backends_own_port() {
    let found = ask(&cluster(), "b/caller", "10.96.0.7", "TCP/80").expect("a Service");
    let port = || "TCP/8080".to_owned();
    let expected = [
        ("b/bad", port(), Verdict::Denied),
        ("b/good", port(), Verdict::Allowed),
    ];
    assert_eq!(backends(&found), expected);
    // The detailed result is the first of the worst ones.
    assert_eq!(
        (found.verdict, found.to.name.as_str()),
        (Verdict::Denied, "b/bad")
    );
    assert_eq!(found.port.to_string(), "TCP/8080");
    let shown = serde_json::to_value(&found).expect("JSON");
    assert_eq!(shown["via"]["service"], "b/front");
    assert_eq!(shown["via"]["port"], "TCP/80");
    assert_eq!(shown["via"]["backends"][1]["verdict"], "allowed");
}

#[test]
fn the_port_that_policy_means_is_not_the_services() {
    let found = ask(&cluster(), "b/caller", "10.96.0.7", "TCP/81").expect("a Service");
    let verdicts: Vec<_> = backends(&found).into_iter().map(|b| (b.1, b.2)).collect();
    let denied = ("TCP/9000".to_owned(), Verdict::Denied);
    assert_eq!(verdicts, [denied.clone(), denied]);
}

#[test]
fn the_fix_for_a_service_allows_the_backend_that_was_denied() {
    let found = ask(&cluster(), "b/caller", "10.96.0.7", "TCP/80").expect("a Service");
    let patches: Vec<&str> = found.fix.iter().map(|fix| fix.patch.as_str()).collect();
    let text = patches.join("\n");
    assert!(text.contains("8080"), "{text}");
    assert!(!text.contains("10.96.0.7"), "{text}");
}

#[test]
fn an_address_that_is_a_pods_stays_the_pods_on_every_port() {
    let (objects, shared) = (cluster(), "10.0.0.1");
    for (port, noted) in [("TCP/80", true), ("TCP/443", false)] {
        let found = ask(&objects, "b/good", shared, port).expect("a pod");
        assert_eq!((found.via, found.to.name.as_str()), (None, "b/caller"));
        assert_eq!(found.note.is_some(), noted, "{port}");
    }
}

#[test]
fn an_address_that_is_a_nodes_is_the_services_on_its_ports_alone() {
    let mut objects = cluster();
    objects.push(json!({
        "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    }));
    let service = objects.iter_mut().find(|o| o["kind"] == "Service");
    service.expect("a Service")["spec"]["externalIPs"] = json!(["192.168.0.1"]);
    let called = ask(&objects, "b/good", "192.168.0.1", "TCP/80").expect("a Service");
    assert_eq!(backends(&called).len(), 2);
    let other = ask(&objects, "b/good", "192.168.0.1", "TCP/443").expect("a node");
    assert_eq!((other.via, other.to.workload.as_str()), (None, "node"));
}

#[test]
fn on_a_port_that_no_service_has_its_address_is_judged_as_any_other() {
    let mut objects = cluster();
    objects.push(netpol(
        "b/blocks",
        json!({
            "podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.96.0.0/16"}}], "ports": [{"port": 443}]}],
        }),
    ));
    for (port, verdict) in [
        ("TCP/443", Verdict::Allowed),
        ("UDP/80", Verdict::Denied),
        ("ICMP", Verdict::Denied),
    ] {
        let found = ask(&objects, "b/caller", "10.96.0.7", port).expect(port);
        assert_eq!((found.via, found.verdict), (None, verdict), "{port}");
        assert_eq!(found.to.workload, "outside");
        let note = found.note.expect("what the Service lacks is said");
        assert!(note.contains("b/front") && note.contains(port), "{note}");
    }
}

#[test]
fn a_service_without_backends_is_said() {
    let mut objects = cluster();
    objects.retain(|o| o["metadata"]["labels"]["app"] != "web");
    let error = ask(&objects, "b/caller", "10.96.0.7", "TCP/80").expect_err("nobody is there");
    assert_eq!(error, ExplainError::NoBackends("b/front".into()));
}

#[test]
fn a_cluster_ip_is_its_own_services_where_another_shows_it_on_the_same_port() {
    let mut objects = cluster();
    objects.push(json!({
        "kind": "Service", "metadata": {"namespace": "a", "name": "thief"},
        "spec": {
            "selector": {"app": "other"}, "clusterIP": "10.96.0.8", "externalIPs": ["10.96.0.7"],
            "ports": [{"port": 80}, {"port": 82}],
        },
    }));
    let found = ask(&objects, "b/caller", "10.96.0.7", "TCP/80").expect("a Service");
    assert_eq!(found.via.expect("a Service").service, "b/front");
    let error = ask(&objects, "b/caller", "10.96.0.7", "TCP/82").expect_err("nobody is there");
    assert_eq!(error, ExplainError::NoBackends("a/thief".into()));
}

#[test]
fn backends_of_slices_are_judged_by_their_addresses_and_the_slices_ports() {
    let mut objects = cluster();
    let service = objects.iter_mut().find(|o| o["kind"] == "Service");
    let spec = &mut service.expect("a Service")["spec"];
    spec["selector"] = json!({});
    spec["ports"] = json!([{"name": "web", "port": 80}]);
    objects.push(json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"namespace": "b", "name": "front-1", "labels": {"kubernetes.io/service-name": "front"}},
        "addressType": "IPv4",
        "ports": [{"name": "other", "port": 1}, {"name": "web", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["198.51.100.9"]}],
    }));
    let found = ask(&objects, "b/caller", "10.96.0.7", "TCP/80").expect("a Service");
    let port = || "TCP/8080".to_owned();
    let expected = [
        ("b/good", port(), Verdict::Allowed),
        ("198.51.100.9", port(), Verdict::Denied),
    ];
    assert_eq!(backends(&found), expected);
}

#[test]
fn slices_that_are_left_to_another_proxy_have_no_backends() {
    let mut objects = cluster();
    let service = objects.iter_mut().find(|o| o["kind"] == "Service");
    service.expect("a Service")["spec"]["selector"] = json!({});
    let labels = json!({
        "kubernetes.io/service-name": "front", "service.kubernetes.io/service-proxy-name": "other",
    });
    objects.push(json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"namespace": "b", "name": "front-1", "labels": labels},
        "addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["10.0.0.2"]}],
    }));
    let error = ask(&objects, "b/caller", "10.96.0.7", "TCP/80").expect_err("nobody is there");
    assert_eq!(error, ExplainError::NoBackends("b/front".into()));
}
