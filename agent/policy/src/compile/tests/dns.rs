//! The way to cluster DNS, in all its forms.

use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    config::Config,
    index::Index,
    testing::{goes_out, index, object, pod, pod_with},
};

/// Returns a caller that may only query DNS.
fn caller() -> Value {
    pod(
        "bank/a",
        "10.0.0.2",
        json!({"ringfence.dev/egress": "enforce"}),
    )
}

/// Returns a Service of DNS and metrics, with these members of its spec.
fn service(name: &str, spec: Value) -> Value {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let mut service = json!({
        "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5353},
            {"name": "metrics", "port": 9153, "targetPort": 9153},
        ]},
    });
    for (field, value) in spec.as_object().expect("members") {
        service["spec"][field] = value.clone();
    }
    service
}

fn behind() -> Value {
    json!({"selector": {"k8s-app": "kube-dns"}, "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"]})
}

fn dns_pod(name: &str, ip: &str) -> Value {
    let ports = json!([{"name": "dns", "containerPort": 5354, "protocol": "UDP"}]);
    pod_with(name, ip, json!({"k8s-app": "kube-dns"}), ports)
}

fn host(name: &str, addresses: &[&str]) -> Value {
    let mut pod = dns_pod(name, addresses[0]);
    pod["spec"]["hostNetwork"] = json!(true);
    let all = addresses.iter().map(|ip| json!({"ip": ip}));
    pod["status"]["podIPs"] = all.collect();
    pod
}

fn slice(name: &str, service: &str, addresses: &[&str], ports: Value) -> Value {
    let (namespace, service) = service.split_once('/').expect("namespace/name");
    json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": addresses}], "ports": ports,
    })
}

fn slice_ports() -> Value {
    json!([
        {"name": "dns", "port": 8053, "protocol": "UDP"}, {"name": "dns-tcp", "port": 8054, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "protocol": "TCP"},
    ])
}

/// Asserts what the caller may reach: each address with everything that is open there.
fn opens(index: &Index, expected: &[(&str, &[&str])]) {
    let asked = [
        "UDP/53", "TCP/53", "SCTP/53", "UDP/5353", "TCP/5353", "UDP/5354", "UDP/8053", "TCP/8053",
        "TCP/8054", "TCP/9153", "ICMP",
    ];
    for (peer, open) in expected {
        let found: Vec<&str> = asked
            .into_iter()
            .filter(|port| goes_out(index, "bank/a", peer, port))
            .collect();
        assert_eq!(found, *open, "{peer}");
    }
}

const BOTH: &[&str] = &["UDP/53", "TCP/53"];
/// The ports on which a pod that declares its ports listens.
const AT_POD: &[&str] = &["UDP/53", "TCP/53", "TCP/5353", "UDP/5354"];

#[test]
fn a_closed_caller_still_reaches_cluster_dns_and_no_other_port_of_it() {
    let pods = [
        dns_pod("kube-system/dns", "10.0.0.8"),
        dns_pod("bank/dns", "10.0.0.3"),
    ];
    let mut index = index(pods.into_iter().chain([caller()]));
    opens(&index, &[("10.0.0.8", BOTH), ("10.0.0.3", &[])]);
    index.apply(object(service("kube-system/kube-dns", behind())));
    opens(
        &index,
        &[
            ("10.0.0.8", AT_POD),
            ("10.96.0.10", BOTH),
            ("fd00::10", BOTH),
            ("10.0.0.3", &[]),
            ("192.0.2.53", &[]),
        ],
    );
}

#[test]
fn caches_on_the_nodes_answer_for_cluster_dns() {
    let mut config = Config::default();
    config
        .dns_addresses
        .push("fd00:cafe::53".parse().expect("an address"));
    let mut index = Index::new(config);
    index.apply(object(caller()));
    opens(
        &index,
        &[
            ("169.254.20.10", BOTH),
            ("fd00:cafe::53", BOTH),
            ("169.254.20.11", &[]),
            ("169.254.169.254", &[]),
        ],
    );
}

#[test]
fn dns_pods_in_their_nodes_network_are_reached_at_its_addresses() {
    let node = json!({"kind": "Node", "metadata": {"name": "n2"}, "status": {"addresses": [
        {"address": "192.0.2.7"}, {"address": "2001:db8::7"}, {"address": "192.0.2.8"},
    ]}});
    let mut index = index([
        caller(),
        node,
        service("kube-system/kube-dns", behind()),
        host("kube-system/dns", &["192.0.2.7", "2001:db8::7"]),
        host("bank/dns", &["192.0.2.9"]),
    ]);
    let open: [(&str, &[&str]); 4] = [
        ("192.0.2.7", AT_POD),
        ("2001:db8::7", AT_POD),
        ("192.0.2.8", &[]),
        ("192.0.2.9", &[]),
    ];
    opens(&index, &open);
    index.delete(&ObjectKey::new(Kind::Pod, "kube-system", "dns"));
    opens(&index, &[("192.0.2.7", &[]), ("2001:db8::7", &[])]);
    index.apply(object(host("kube-system/dns", &["192.0.2.8"])));
    opens(&index, &[("192.0.2.8", AT_POD)]);
    let mut ended = host("kube-system/dns", &["192.0.2.8"]);
    ended["status"]["phase"] = json!("Failed");
    index.apply(object(ended));
    opens(&index, &[("192.0.2.8", &[])]);
}

#[test]
fn a_dns_service_without_selector_leads_where_its_endpoint_slices_say() {
    let spec = json!({"clusterIP": "10.96.0.10"});
    let dns = "kube-system/kube-dns";
    let mut index = index([
        caller(),
        service(dns, spec),
        slice("own", dns, &["192.0.2.53", "2001:db8::53"], slice_ports()),
        slice("all", dns, &["192.0.2.54"], json!([])),
        slice(
            "named",
            dns,
            &["192.0.2.55", "dns.example.com"],
            json!([{"name": "dns"}]),
        ),
        slice("other", "kube-system/web", &["192.0.2.56"], slice_ports()),
        slice("bank", "bank/kube-dns", &["192.0.2.57"], slice_ports()),
    ]);
    opens(
        &index,
        &[
            ("192.0.2.53", &["UDP/8053", "TCP/8054"]),
            ("2001:db8::53", &["UDP/8053", "TCP/8054"]),
            ("192.0.2.54", &["UDP/53", "TCP/5353"]),
            ("192.0.2.55", &["UDP/53"]),
            ("192.0.2.56", &[]),
            ("192.0.2.57", &[]),
        ],
    );
    index.delete(&ObjectKey::new(Kind::EndpointSlice, "kube-system", "own"));
    opens(
        &index,
        &[("192.0.2.53", &[]), ("192.0.2.54", &["UDP/53", "TCP/5353"])],
    );
}

#[test]
fn endpoint_slices_beside_a_selector_count_unless_they_are_made_of_it() {
    let dns = "kube-system/kube-dns";
    let mut made = slice("made", dns, &["192.0.2.53"], slice_ports());
    made["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        json!("endpointslice-controller.k8s.io");
    let by_hand = slice("by-hand", dns, &["192.0.2.54"], slice_ports());
    let index = index([caller(), service(dns, behind()), made, by_hand]);
    opens(
        &index,
        &[
            ("192.0.2.53", &[]),
            ("192.0.2.54", &["UDP/8053", "TCP/8054"]),
        ],
    );
}

#[test]
fn what_endpoint_slices_name_behind_cluster_dns_has_a_bound() {
    let dns = "kube-system/kube-dns";
    let addresses: Vec<String> = (0..2000)
        .map(|n: u32| format!("192.0.{}.{}", n / 250, n % 250))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let index = index([
        caller(),
        service(dns, json!({})),
        slice("many", dns, &addresses, slice_ports()),
    ]);
    let tables = index.compile(&crate::index::Scope::Everything);
    assert_eq!(tables.cidrs.len(), 1024 + 1, "and the cache on the nodes");
    assert!(
        tables.rules.len() <= 3,
        "one class however many: {:?}",
        tables.rules
    );
}

#[test]
fn several_services_are_cluster_dns_where_an_administrator_says_so() {
    let labelled = |name: &str| {
        let (_, short) = name.split_once('/').expect("namespace/name");
        let spec =
            json!({"clusterIP": if short == "coredns" { "10.96.0.11" } else { "10.96.0.12" }});
        let mut service = service(name, spec);
        service["metadata"]["labels"] = json!({"k8s-app": "kube-dns"});
        service
    };
    let objects = || {
        [
            caller(),
            service("kube-system/kube-dns", behind()),
            labelled("kube-system/coredns"),
            labelled("bank/kube-dns"),
            service("dns/core", json!({"clusterIP": "10.96.0.13"})),
            service("kube-system/plain", json!({"clusterIP": "10.96.0.14"})),
        ]
    };
    opens(
        &index(objects()),
        &[
            ("10.96.0.10", BOTH),
            ("10.96.0.11", BOTH),
            ("10.96.0.12", &[]),
            ("10.96.0.13", &[]),
            ("10.96.0.14", &[]),
        ],
    );
    let mut told = Index::new(Config {
        dns_services: vec!["kube-system/kube-dns".into(), "dns/core".into()],
        ..Config::default()
    });
    objects().into_iter().for_each(|o| told.apply(object(o)));
    opens(
        &told,
        &[
            ("10.96.0.10", BOTH),
            ("10.96.0.11", &[]),
            ("10.96.0.12", &[]),
            ("10.96.0.13", BOTH),
        ],
    );
}

#[test]
fn a_labelled_service_without_a_dns_port_opens_nothing() {
    let metrics = json!({
        "kind": "Service",
        "metadata": {"namespace": "kube-system", "name": "m", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": "10.96.0.11", "selector": {"k8s-app": "kube-dns"}, "ports": [{"port": 9153}]},
    });
    let index = index([caller(), metrics, dns_pod("kube-system/dns", "10.0.0.8")]);
    opens(&index, &[("10.96.0.11", &[]), ("10.0.0.8", &[])]);
}
