//! Which corners a cluster provokes, told from its objects.

use std::collections::BTreeMap;

use serde_json::Value;

use super::labels::is_mode;
use super::{Cluster, cluster_features};
use crate::oracle::Probe;

/// Corners that show as a piece of a cluster's text.
const TEXTS: [(&str, &str); 34] = [
    ("matchLabels", "\"matchLabels\":{\""),
    ("operator In", "\"operator\":\"In\""),
    ("operator NotIn", "\"operator\":\"NotIn\""),
    ("operator Exists", "\"operator\":\"Exists\""),
    ("operator DoesNotExist", "\"operator\":\"DoesNotExist\""),
    ("empty podSelector", "\"podSelector\":{}"),
    ("empty namespaceSelector", "\"namespaceSelector\":{}"),
    ("except", "\"except\":["),
    ("everything of IPv4", "\"cidr\":\"0.0.0.0/0\""),
    ("everything of IPv6", "\"cidr\":\"::/0\""),
    ("a CIDR over mapped IPv4", "\"cidr\":\"::/64\""),
    ("a CIDR with host bits", "\"10.0.1.77/24\""),
    ("empty from", "\"from\":[]"),
    ("empty to", "\"to\":[]"),
    ("empty ports of a rule", "\"ports\":[]"),
    ("no ingress rules", "\"ingress\":[]"),
    ("no egress rules", "\"egress\":[]"),
    ("a rule that allows all", "[{}"),
    ("endPort", "\"endPort\":"),
    ("a named port", "\"port\":\"http\""),
    ("SCTP", "\"protocol\":\"SCTP\""),
    ("a hostNetwork pod", "\"hostNetwork\":true"),
    ("a terminating pod", "\"deletionTimestamp\":"),
    ("a finished pod", "\"phase\":\"Failed\""),
    ("malformed mode", ":\"Enforced\""),
    ("pod-overrides", "ringfence.dev/pod-overrides\":\"allow\""),
    ("a group", "\"egress-groups.ringfence.dev/"),
    ("another namespace's service", ".egress.ringfence.dev/"),
    ("another namespace's group", ".egress-groups.ringfence.dev/"),
    ("any_namespace", "/any_namespace\":\"true\""),
    ("outside_cluster", "/outside_cluster\":\"true\""),
    ("all_nodes", "/all_nodes\":\"true\""),
    ("a staged policy", "\"ringfence.dev/mode\":\"audit\""),
    ("quarantine", "\"ringfence.dev/quarantine\":\"true\""),
];

/// Every corner, and whether the cluster has it.
pub fn features(cluster: &Cluster) -> Vec<(&'static str, bool)> {
    let text = Value::Array(cluster.objects.clone()).to_string();
    let texts = TEXTS
        .iter()
        .map(|(name, piece)| (*name, text.contains(piece)));
    let mut found: Vec<_> = texts.collect();
    found.push(("no DNS Service", !text.contains("\"clusterIPs\"")));
    found.extend(of_policies(&cluster.objects));
    found.extend(of_pods(&cluster.objects));
    found.extend(of_probes(&cluster.probes));
    found.extend(cluster_features::features(cluster));
    found
}

fn of_policies(objects: &[Value]) -> [(&'static str, bool); 6] {
    let untyped = |p: &Value| p["spec"]["policyTypes"].is_null();
    [
        (
            "several policies on all pods of a namespace",
            several_policies(objects),
        ),
        ("no policyTypes", policies(objects).any(untyped)),
        (
            "a port without protocol",
            rules(objects).any(|r| lacks(r, "protocol")),
        ),
        (
            "a protocol without port",
            rules(objects).any(|r| lacks(r, "port")),
        ),
        (
            "a rule with port names for anybody",
            rules(objects).any(for_anybody),
        ),
        (
            "an invalid policy",
            policies(objects).any(crate::oracle::is_invalid),
        ),
    ]
}

fn of_pods(objects: &[Value]) -> [(&'static str, bool); 10] {
    let unlabelled = |n: &Value| n["metadata"]["labels"].is_null();
    let is_malformed = |v: &str| v == "TRUE" || v == "8080_TRUE";
    let to_bank = |(key, _): (&str, &str)| key == "callers.ringfence.dev/bank";
    [
        ("one address, two pods", reused_address(objects)),
        (
            "a namespace without labels",
            namespaces(objects).any(unlabelled),
        ),
        ("a namespace without object", unknown_namespace(objects)),
        (
            "a pod's mode",
            labels(objects, "Pod").any(|(key, _)| is_mode(key)),
        ),
        (
            "a namespace's mode",
            labels(objects, "Namespace").any(|(key, _)| is_mode(key)),
        ),
        (
            "a value with ports",
            values(objects).any(|v| v.contains("udp-")),
        ),
        ("a malformed value", values(objects).any(is_malformed)),
        (
            "callers of a namespace",
            labels(objects, "Pod").any(to_bank),
        ),
        ("a name with several numbers", several_numbers(objects)),
        ("an owner that names the service", owner_names(objects)),
    ]
}

fn of_probes(probes: &[Probe]) -> [(&'static str, bool); 3] {
    let any = |wanted: fn(&Probe) -> bool| probes.iter().any(wanted);
    [
        ("an ICMP probe", any(|p| matches!(p.protocol, 1 | 58))),
        ("an unknown protocol", any(|p| p.protocol == 47)),
        ("an IPv6 probe", any(|p| p.to.address.is_ipv6())),
    ]
}

fn unknown_namespace(objects: &[Value]) -> bool {
    objects.iter().filter(|o| o["kind"] == "Pod").any(|pod| {
        let space = &pod["metadata"]["namespace"];
        !namespaces(objects).any(|n| n["metadata"]["name"] == *space)
    })
}

fn policies(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|o| o["kind"] == "NetworkPolicy")
}

fn namespaces(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|o| o["kind"] == "Namespace")
}

fn rules(objects: &[Value]) -> impl Iterator<Item = &Value> {
    policies(objects).flat_map(|p| {
        let ways = ["ingress", "egress"].into_iter();
        ways.flat_map(|way| p["spec"][way].as_array().into_iter().flatten())
    })
}

fn lacks(rule: &Value, field: &str) -> bool {
    let ports = rule["ports"].as_array();
    ports.is_some_and(|ports| ports.iter().any(|p| p[field].is_null()))
}

/// Named ports, above all, have to be resolved for everybody then.
fn for_anybody(rule: &Value) -> bool {
    let named = |ports: &Vec<Value>| ports.iter().any(|p| p["port"].is_string());
    rule["from"].is_null() && rule["to"].is_null() && rule["ports"].as_array().is_some_and(named)
}

fn labels<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let chosen = objects.iter().filter(move |o| o["kind"] == kind);
    let maps = chosen.filter_map(|o| o["metadata"]["labels"].as_object());
    maps.flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
}

fn values(objects: &[Value]) -> impl Iterator<Item = &str> {
    labels(objects, "Pod")
        .filter(|(key, _)| key.contains("egress.ringfence.dev/"))
        .map(|(_, value)| value)
}

fn reused_address(objects: &[Value]) -> bool {
    let pods = objects.iter().filter(|o| o["kind"] == "Pod");
    let mut shown: Vec<&str> = pods
        .filter(|p| p["spec"]["hostNetwork"] != true)
        .filter_map(|p| p["status"]["podIP"].as_str())
        .collect();
    let all = shown.len();
    shown.sort_unstable();
    shown.dedup();
    shown.len() < all
}

fn several_policies(objects: &[Value]) -> bool {
    let mut spaces = BTreeMap::new();
    for policy in policies(objects) {
        if policy["spec"]["podSelector"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
        {
            *spaces
                .entry(policy["metadata"]["namespace"].as_str())
                .or_insert(0) += 1;
        }
    }
    spaces.values().any(|n| *n > 1)
}

fn several_numbers(objects: &[Value]) -> bool {
    let has = |number: u16| {
        let needle = format!("\"containerPort\":{number},\"name\":\"http\"");
        objects.iter().any(|o| o.to_string().contains(&needle))
    };
    has(80) && has(8080)
}

fn owner_names(objects: &[Value]) -> bool {
    objects.iter().any(|pod| {
        let labels = &pod["metadata"]["labels"];
        let named = ["ringfence.dev/service", "app.kubernetes.io/name", "app"];
        pod["metadata"]["ownerReferences"].is_array() && named.iter().all(|k| labels[*k].is_null())
    })
}
