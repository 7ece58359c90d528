//! The rows of callers agree with `explain`.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use crate::{
    explain::{self, Verdict},
    ports::PortSpec,
    testing::{index, netpol, pod_with},
};

const SERVICES: [&str; 3] = ["api", "ledger", "web"];
const PORTS: [&str; 4] = ["TCP/80", "TCP/81", "UDP/53", "ICMP"];

/// Picks one of several values with equal probability.
fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(values)
}

prop_compose! {
    fn some_pod(n: usize)(
        app in one_of(&SERVICES),
        space in one_of(&["bank", "shop"]),
        mode in one_of(&["", "enforce", "audit"]),
        out in one_of(&["", "enforce"]),
        calls in one_of(&["", "true", "80", "81_udp-53"]),
        admits in one_of(&["", "bank", "any_namespace", "outside_cluster"]),
        cut_off in 0..12,
    ) -> Value {
        let mut labels = json!({"app": app});
        for (key, value) in [
            ("ringfence.dev/ingress", mode),
            ("ringfence.dev/egress", out),
            ("egress.ringfence.dev/ledger", calls),
            ("bank.egress.ringfence.dev/api", calls),
        ] {
            if !value.is_empty() {
                labels[key] = json!(value);
            }
        }
        if !admits.is_empty() {
            labels[format!("callers.ringfence.dev/{admits}")] = json!("true");
        }
        if cut_off == 0 {
            labels["ringfence.dev/quarantine"] = json!("true");
        }
        let ports = json!([{"containerPort": 80}]);
        pod_with(&format!("{space}/pod-{n}"), &format!("10.0.0.{}", n + 1), labels, ports)
    }
}

prop_compose! {
    fn some_policy(n: usize)(
        space in one_of(&["bank", "shop"]),
        subject in one_of(&SERVICES),
        peer in one_of(&SERVICES),
        cidr in one_of(&["10.0.0.0/30", "0.0.0.0/0", "10.0.0.2/32", "198.51.100.0/24"]),
        port in one_of(&["", "80", "81"]),
        traits in 0..4,
        staged in 0..4,
    ) -> Value {
        let from = match traits {
            0 => json!([{"podSelector": {"matchLabels": {"app": peer}}}]),
            1 => json!([{"ipBlock": {"cidr": cidr}}]),
            2 => json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": peer}}}]),
            _ => json!([]),
        };
        let ports = match port {
            "" => json!([]),
            port => json!([{"port": port.parse::<u16>().expect("a number")}]),
        };
        let mut policy = netpol(
            &format!("{space}/policy-{n}"),
            json!({"podSelector": {"matchLabels": {"app": subject}},
                "ingress": [{"from": from, "ports": ports}]}),
        );
        if staged == 0 {
            policy["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
        }
        policy
    }
}

fn some_cluster() -> impl Strategy<Value = Vec<Value>> {
    let pods: Vec<_> = (0..6).map(some_pod).collect();
    let policies: Vec<_> = (0..3).map(some_policy).collect();
    let tier = one_of(&["Accept", "Deny", "Pass"]).prop_flat_map(|action| {
        let subject = one_of(&["Admin", "Baseline"]);
        (Just(action), subject)
    });
    (pods, policies, tier, 0..2).prop_map(|(pods, policies, (action, tier), with_tier)| {
        let mut objects = [pods, policies].concat();
        if with_tier == 1 {
            objects.push(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy", "metadata": {"name": "top"},
                "spec": {"tier": tier, "priority": 1, "subject": {"namespaces": {}}, "ingress": [
                    {"action": action, "from": [{"pods": {"namespaceSelector": {},
                        "podSelector": {"matchLabels": {"app": "api"}}}}],
                        "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}]}}));
        }
        objects
    })
}

/// Reports whether a row's ports contain a port, and whether its rules' ports do.
fn lists(caller: &Caller, port: &str) -> [bool; 2] {
    let holds = |ports: &[String]| {
        let protocol = port.split('/').next().expect("a protocol");
        let number = |p: &str| p.split('/').nth(1).and_then(|n| n.parse::<u16>().ok());
        ports.iter().any(|range| {
            let same = range.split('/').next() == Some(protocol);
            let inside = match range.split('/').nth(1).and_then(|r| r.split_once('-')) {
                Some((first, last)) => {
                    let both = first.parse::<u16>().ok()..=last.parse::<u16>().ok();
                    both.contains(&number(port))
                }
                None => range == protocol || range == port,
            };
            range == "all" || same && inside
        })
    };
    let through = |t: &Through| !t.staged && holds(&t.ports);
    [holds(&caller.ports), caller.through.iter().any(through)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_caller_is_listed_on_a_port_if_and_only_if_explain_allows_it(objects in some_cluster()) {
        let index = index(objects);
        let pods: Vec<String> = index.pods().map(|pod| format!("pod:{}", pod.key())).collect();
        for to in &pods {
            let found = callers(&index, to).expect("a pod");
            let any = found.callers.iter().find(|c| c.kind == CallerKind::Any);
            let outside = found.callers.iter().find(|c| c.caller == "outside" || c.caller.ends_with("(IPv4)"));
            for port in PORTS {
                let spec: PortSpec = port.parse().expect(port);
                let verdict = |from: &str| {
                    let found = explain::explain(&index, from, to, &spec).expect("known");
                    (found.ingress.verdict != Verdict::Denied, found.from.workload)
                };
                let listed = |row: Option<&Caller>| {
                    let rows = [row, any].into_iter().flatten();
                    rows.fold([false, false], |sum, row| {
                        let [ports, through] = lists(row, port);
                        [sum[0] | ports, sum[1] | through]
                    })
                };
                let (allowed, _) = verdict("outside");
                prop_assert_eq!([allowed; 2], listed(outside), "outside to {} {}", to, port);
                let mut by_workload = std::collections::BTreeMap::<String, bool>::new();
                for from in pods.iter().filter(|from| *from != to) {
                    let (allowed, workload) = verdict(from);
                    *by_workload.entry(workload).or_default() |= allowed;
                }
                for (workload, allowed) in by_workload {
                    let is = |c: &&Caller| c.kind == CallerKind::Workload && c.caller == workload;
                    let row = found.callers.iter().find(is);
                    prop_assert_eq!([allowed; 2], listed(row), "{} to {} {}: {:#?}", workload, to, port, found);
                }
            }
        }
    }
}
