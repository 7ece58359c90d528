//! The side effects of a fix, and that they are as small as possible.

use serde_json::{Value, json};

use super::{Explanation, Form, Verdict, explain};
use crate::{
    config::Config,
    index::Index,
    ports::PortSpec,
    testing::{index, namespace, netpol, object, pod, pod_with},
};

fn ask(objects: &[Value], from: &str, to: &str, port: &str) -> Explanation {
    let port: PortSpec = port.parse().expect(port);
    explain(&index(objects.to_vec()), from, to, &port).expect("both ends are known")
}

/// Asserts that a fix has no side effects.
fn clean(found: &Explanation) -> &Explanation {
    let effect = found.effect.as_ref().expect("a fix");
    assert_eq!(
        (effect.opens.count, effect.closes.count),
        (0, 0),
        "{found:#?}"
    );
    assert!(!effect.partly);
    found
}

fn three() -> Vec<Value> {
    let port = json!([{"containerPort": 80}]);
    vec![
        pod_with("bank/db-0", "10.0.0.1", json!({"app": "db"}), port),
        pod("bank/api-0", "10.0.0.2", json!({"app": "api"})),
        pod("shop/web-0", "10.0.0.3", json!({"app": "web"})),
        namespace("bank", json!({})),
        namespace("shop", json!({})),
    ]
}

fn cnp(name: &str, tier: &str, priority: u32, rules: Value) -> Value {
    let mut spec = rules;
    spec["tier"] = json!(tier);
    spec["priority"] = json!(priority);
    spec["subject"] = json!({"namespaces": {}});
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Denies packets from the bank's API.
fn deny_api(tier: &str, priority: u32) -> Value {
    let api = json!({"pods": {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "bank"}},
        "podSelector": {"matchLabels": {"app": "api"}},
    }});
    let rules = json!({"ingress": [{"action": "Deny", "from": [api]}]});
    cnp("guard", tier, priority, rules)
}

#[test]
fn under_a_baseline_a_fix_closes_nothing() {
    for tier in ["Baseline", "Admin"] {
        let mut objects = three();
        objects.push(deny_api(tier, 10));
        let found = ask(&objects, "bank/api", "bank/db", "TCP/80");
        assert_eq!(found.verdict, Verdict::Denied);
        let fix = &clean(&found).fix[0];
        assert_eq!(
            fix.object,
            "ClusterNetworkPolicy allow-bank-db-from-bank-api-0"
        );
        assert_eq!(fix.form, Form::Object);
        objects.push(serde_yaml_ng::from_str(&fix.patch).expect("YAML"));
        let verdict = |from: &str, to: &str, port: &str| ask(&objects, from, to, port).verdict;
        assert_eq!(verdict("bank/api", "bank/db", "TCP/80"), Verdict::Allowed);
        assert_eq!(verdict("bank/api", "bank/db", "TCP/81"), Verdict::Denied);
        assert_eq!(verdict("shop/web", "bank/db", "TCP/80"), Verdict::Allowed);
        assert_eq!(verdict("outside", "bank/db", "TCP/80"), Verdict::Allowed);
    }
}

#[test]
fn where_nothing_stands_before_the_policy_the_rule_goes_into_it_and_what_else_it_opens_is_said() {
    let mut objects = three();
    objects.push(deny_api("Baseline", 0));
    let found = ask(&objects, "bank/api", "bank/db", "TCP/80");
    let fix = &found.fix[0];
    assert_eq!(fix.object, "ClusterNetworkPolicy guard");
    assert_eq!(fix.form, Form::Patch);
    let effect = found.effect.expect("a fix");
    assert_eq!(effect.closes.count, 0);
    let opens: Vec<_> = effect
        .opens
        .calls
        .iter()
        .map(|c| (&*c.from, &*c.to))
        .collect();
    assert_eq!(opens, [("bank/api", "shop/web")]);
    assert_eq!(effect.opens.calls[0].ports, ["TCP/80"]);
}

#[test]
fn what_a_fix_can_not_but_close_is_counted_and_named() {
    let mut objects = three();
    for n in 0..20 {
        let name = format!("shop/more{n}-0");
        objects.push(pod(
            &name,
            &format!("10.0.1.{n}"),
            json!({"app": format!("more{n}")}),
        ));
    }
    let mut guard = deny_api("Baseline", 0);
    let rule = guard["spec"]["ingress"][0].clone();
    // The policy can't hold one more rule.
    guard["spec"]["ingress"] = json!(vec![rule; 25]);
    objects.push(guard);
    let found = ask(&objects, "bank/api", "bank/db", "TCP/80");
    assert_eq!(
        found.fix[0].object,
        "NetworkPolicy bank/allow-db-from-bank-api-0"
    );
    let effect = found.effect.expect("a fix");
    // All of the shop, and addresses outside the cluster.
    assert_eq!((effect.closes.count, effect.closes.calls.len()), (22, 10));
    assert_eq!(effect.closes.calls[0].from, "outside");
    assert_eq!(effect.closes.calls[0].ports, ["all"]);
}

#[test]
fn a_fix_is_for_both_families() {
    let dual = |name: &str, n: u8, app: &str| {
        let mut pod = pod(name, &format!("10.0.0.{n}"), json!({"app": app}));
        pod["status"]["podIPs"] =
            json!([{"ip": format!("10.0.0.{n}")}, {"ip": format!("fd00::{n}")}]);
        pod
    };
    let blocks = json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]);
    let mut objects = vec![
        dual("bank/db-0", 1, "db"),
        dual("bank/api-0", 2, "api"),
        netpol(
            "bank/db",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": blocks}),
        ),
    ];
    let found = ask(&objects, "bank/api", "bank/db", "TCP/80");
    assert_eq!(found.families, Some([Verdict::Allowed, Verdict::Denied]));
    clean(&found);
    // From outside, neither family is allowed; a fix must open both.
    let found = ask(&objects, "outside", "bank/db", "TCP/80");
    assert!(found.fix[0].patch.contains("::/0") && found.fix[0].patch.contains("0.0.0.0/0"));
    objects[2]["spec"]["ingress"] = json!([{"from": [{"ipBlock": {"cidr": "::/0"}}]}]);
    let found = ask(&objects, "outside", "bank/db", "TCP/80");
    assert_eq!(found.families, Some([Verdict::Denied, Verdict::Allowed]));
}

#[test]
fn where_pods_have_both_families_so_has_a_workload_that_stands_for_its_own() {
    let web = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": "bank", "name": "web"},
        "spec": {"template": {"metadata": {"labels": {"app": "web"}}}},
    });
    let mut dual = pod("bank/db-0", "10.0.0.1", json!({"app": "db"}));
    dual["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let six = json!({"podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]});
    let objects = [web, dual, netpol("bank/db", six)];
    let found = ask(&objects, "bank/web", "bank/db", "TCP/80");
    assert_eq!(found.families, Some([Verdict::Denied, Verdict::Allowed]));
}

#[test]
fn a_new_policy_takes_no_other_ones_name() {
    let mut objects = three();
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    objects.push(netpol("bank/deny", deny));
    let first = ask(&objects, "bank/api", "bank/db", "TCP/80");
    assert_eq!(
        first.fix[0].object,
        "NetworkPolicy bank/allow-db-from-bank-api-0"
    );
    let mut one: Value = serde_yaml_ng::from_str(&first.fix[0].patch).expect("YAML");
    // The policy also selects other pods, so adding a rule to it isn't offered.
    one["spec"]["podSelector"] =
        json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    objects.push(one);
    let second = ask(&objects, "bank/api", "bank/db", "TCP/443");
    assert_eq!(
        second.fix[0].object,
        "NetworkPolicy bank/allow-db-from-bank-api-0-2"
    );
    clean(&second);
}

#[test]
fn a_new_policy_isolates_only_pods_that_are_isolated_already() {
    let mut objects = three();
    objects.push(pod(
        "bank/db-1",
        "10.0.0.4",
        json!({"app": "db", "tier": "open"}),
    ));
    objects[0]["metadata"]["labels"]["tier"] = json!("closed");
    objects.push(pod(
        "bank/vault-0",
        "10.0.0.5",
        json!({"app": "vault", "tier": "closed"}),
    ));
    let spec =
        json!({"podSelector": {"matchLabels": {"tier": "closed"}}, "policyTypes": ["Ingress"]});
    objects.push(netpol("bank/closed", spec));
    let found = ask(&objects, "pod:bank/api-0", "pod:bank/db-0", "TCP/80");
    assert!(
        clean(&found).fix[0].patch.contains("tier: closed"),
        "{found:#?}"
    );
}

#[test]
fn what_is_only_staged_is_fixed_by_what_is_staged() {
    let mut objects = three();
    let mut deny = netpol(
        "bank/deny",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    );
    deny["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
    objects.push(deny);
    let found = ask(&objects, "bank/api", "bank/db", "TCP/80");
    assert_eq!(found.verdict, Verdict::Audited);
    let patch = &clean(&found).fix[0].patch;
    assert!(patch.contains("ringfence.dev/mode: audit"), "{patch}");
}

#[test]
fn selectors_hold_no_label_of_ringfences_own_whatever_its_prefix() {
    let config = Config {
        label_prefix: "corp.example".into(),
        egress_prefix: "egress.corp.example".into(),
        egress_groups_prefix: "egress-groups.corp.example".into(),
        callers_prefix: "callers.corp.example".into(),
        service_labels: vec!["corp.example/service".into()],
        ..Config::default()
    };
    let mut index = Index::new(config);
    let own = json!({
        "corp.example/ingress": "enforce", "egress.corp.example/a": "true", "team": "x",
        "bank.egress.corp.example/b": "80", "callers.corp.example/bank": "true",
        "x.egress-groups.corp.example/api": "true", "ringfence.dev/ingress": "enforce",
        "pod-template-hash": "1", "statefulset.kubernetes.io/pod-name": "db-0",
    });
    let objects = [
        pod("bank/db-0", "10.0.0.1", own),
        pod("shop/web-0", "10.0.0.2", json!({"app": "web"})),
    ];
    objects.into_iter().for_each(|o| index.apply(object(o)));
    let port = "TCP/80".parse().expect("a port");
    let found = explain(&index, "203.0.113.9", "pod:bank/db-0", &port).expect("known");
    let new = found
        .fix
        .iter()
        .find(|fix| fix.form == Form::Object)
        .expect("a policy");
    let new: Value = serde_yaml_ng::from_str(&new.patch).expect("YAML");
    let labels = &new["spec"]["podSelector"]["matchLabels"];
    let expected = json!({"team": "x", "ringfence.dev/ingress": "enforce"});
    assert_eq!(*labels, expected, "{new}");
}

#[test]
fn one_address_is_admitted_and_not_all_that_is_outside() {
    let objects = [pod(
        "bank/db-0",
        "10.0.0.1",
        json!({"app": "db", "ringfence.dev/ingress": "enforce"}),
    )];
    let found = ask(&objects, "198.51.100.9", "bank/db", "TCP/80");
    assert!(clean(&found).fix[0].patch.contains("198.51.100.9/32"));
    let found = ask(&objects, "outside", "bank/db", "TCP/80");
    let patch = &found.fix[0].patch;
    assert!(
        patch.contains("callers.ringfence.dev/outside_cluster"),
        "{patch}"
    );
}

#[test]
fn a_callers_side_asks_for_no_consent_of_the_callee() {
    let mut objects = three();
    objects[2]["metadata"]["labels"]["ringfence.dev/egress"] = json!("enforce");
    let found = ask(&objects, "shop/web", "bank/db", "TCP/80");
    let fixed: Vec<&str> = clean(&found)
        .fix
        .iter()
        .map(|fix| fix.object.as_str())
        .collect();
    assert_eq!(fixed, ["Pod shop/web-0"]);
}
