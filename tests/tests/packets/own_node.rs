//! The library for traffic with a pod's own node, and with the pod itself behind a
//! Service, under ClusterNetworkPolicies.

use ringfence_ebpf::abi::Reason::Policy;
use ringfence_tests::oracle::check;
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::fixture::{self, address};
use ringfence_tests::packets::host::Host;
use ringfence_tests::packets::step::{from_pod, to_pod};
use serde_json::{Value, json};

use super::{ACK, SYN, assert_step};

/// Returns a host under one more ClusterNetworkPolicy of tier Admin.
fn host(spec: &Value) -> Host {
    let mut objects = fixture::objects();
    let mut policy = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "own"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
    });
    for (key, value) in spec.as_object().expect("rules") {
        policy["spec"][key] = value.clone();
    }
    objects.push(policy);
    Host::new(check::compile(&objects, Some(fixture::NODE)).expect("valid objects"))
}

fn deny_nodes() -> Value {
    let accept = json!({
        "action": "Accept", "to": [{"nodes": {}}],
        "protocols": [{"tcp": {"destinationPort": {"number": 53}}}],
    });
    json!({"egress": [accept, {"action": "Deny", "to": [{"nodes": {}}]}]})
}

#[test]
fn what_a_cluster_policy_denies_to_nodes_is_denied_to_the_pods_own_at_every_address() {
    let mut host = host(&deny_nodes());
    for v4 in [true, false] {
        for (pod, at) in [("plain", "node"), ("caller", "node"), ("plain", "bridge")] {
            let call = |port, flags| {
                Frame::tcp(
                    (address(pod, v4), 40_000 + port),
                    (address(at, v4), port),
                    flags,
                )
            };
            assert_step(&mut host, &from_pod(pod, &call(10_250, SYN)).drops(Policy));
            let ping = Frame::echo(address(pod, v4), address(at, v4), true, 7);
            assert_step(&mut host, &from_pod(pod, &ping).drops(Policy));
            assert_step(&mut host, &from_pod(pod, &call(53, SYN)));
            let answer = call(53, SYN).reply().flags(SYN | ACK);
            assert_step(&mut host, &to_pod(pod, &answer).by_node());
        }
        // Probes still come in, and are answered.
        let probe = Frame::tcp(
            (address("node", v4), 41_000),
            (address("callee", v4), 8080),
            SYN,
        );
        assert_step(&mut host, &to_pod("callee", &probe).by_node());
        assert_step(
            &mut host,
            &from_pod("callee", &probe.reply().flags(SYN | ACK)),
        );
    }
}

#[test]
fn an_open_connection_to_the_own_node_ends_when_a_cluster_policy_denies_it_whoever_speaks_first() {
    for first in ["pod", "node"] {
        let mut host = host(&deny_nodes());
        let (pod, node) = (address("plain", true), address("node", true));
        let call = Frame::tcp((pod, 40_000), (node, 10_250), SYN);
        let tiers = std::mem::take(&mut host.endpoint_mut("plain").tiers);
        assert_step(&mut host, &from_pod("plain", &call));
        let answer = call.reply().flags(SYN | ACK);
        assert_step(&mut host, &to_pod("plain", &answer).by_node());
        let endpoint = host.endpoint_mut("plain");
        endpoint.tiers = tiers;
        endpoint.rules.iter_mut().for_each(|half| half.epoch += 1);
        let by_node = to_pod("plain", &call.reply().flags(ACK)).by_node();
        let by_pod = from_pod("plain", &call.flags(ACK)).drops(Policy);
        if first == "node" {
            assert_step(&mut host, &by_node.drops(Policy));
        }
        assert_step(&mut host, &by_pod);
    }
}

/// Returns a pod's call to its own Service, back at its own device: the node has
/// replaced the pod's address with its own.
fn hairpin(v4: bool, port: u16) -> Frame {
    let from = (address("node", v4), port);
    Frame::tcp(from, (address("callee", v4), 8080), SYN)
}

#[test]
fn a_pod_behind_its_own_service_is_under_the_ingress_of_cluster_policies() {
    let deny = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    for (spec, denied) in [
        (
            json!({"egress": [{"action": "Accept", "to": [{"namespaces": {}}]}]}),
            false,
        ),
        (json!({"ingress": [deny]}), true),
    ] {
        let mut host = host(&spec);
        for v4 in [true, false] {
            for service in [true, false] {
                let port = 42_000 + u16::from(service);
                let step = to_pod("callee", &hairpin(v4, port)).by_pod("callee", service);
                let step = if denied { step.drops(Policy) } else { step };
                assert_step(&mut host, &step);
            }
        }
    }
}

#[test]
fn and_under_their_egress() {
    let deny = json!({"action": "Deny", "to": [{"namespaces": {}}]});
    let mut host = host(&json!({"egress": [deny]}));
    for v4 in [true, false] {
        let step = to_pod("callee", &hairpin(v4, 43_000)).by_pod("callee", true);
        assert_step(&mut host, &step.decided_by_sender().drops(Policy));
        // A pod may send anything to its own address.
        let own = (address("callee", v4), 43_001);
        let direct = Frame::tcp(own, (address("callee", v4), 8080), SYN);
        assert_step(&mut host, &from_pod("callee", &direct));
    }
}
