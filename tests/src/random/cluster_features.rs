//! Which corners of ClusterNetworkPolicy a cluster provokes, and its probes hit.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Cluster, NODE};
use crate::oracle::{Action, Opinions, Oracle, is_invalid};

/// Corners that show as a piece of the policies' text.
const TEXTS: [(&str, &str); 25] = [
    ("CNP: a peer of a newer API", "{\"accounts\":{\"match"),
    ("CNP: a protocol of a newer API", "{\"icmp\":{}}"),
    ("CNP: Admin", "\"tier\":\"Admin\""),
    ("CNP: Baseline", "\"tier\":\"Baseline\""),
    ("CNP: lowest priority", "\"priority\":1000,"),
    ("CNP: highest priority", "\"priority\":0,"),
    ("CNP: subject by namespaces", "\"subject\":{\"namespaces\""),
    ("CNP: subject by pods", "\"subject\":{\"pods\""),
    (
        "CNP: ingress peer by namespaces",
        "\"from\":[{\"namespaces\"",
    ),
    ("CNP: ingress peer by pods", "\"from\":[{\"pods\""),
    ("CNP: egress peer by namespaces", "\"to\":[{\"namespaces\""),
    ("CNP: egress peer by pods", "\"to\":[{\"pods\""),
    ("CNP: pods of any namespace", "{\"pods\":{\"podSelector\""),
    ("CNP: nodes", "{\"nodes\":{\"match"),
    ("CNP: all nodes", "{\"nodes\":{}"),
    ("CNP: networks", "{\"networks\":["),
    ("CNP: domainNames", "{\"domainNames\":["),
    ("CNP: a port name", "\"destinationNamedPort\""),
    ("CNP: a range", "\"range\":{"),
    ("CNP: a port", "\"destinationPort\":{\"number\""),
    ("CNP: a whole protocol", "\"tcp\":{}"),
    ("CNP: empty protocols", "\"protocols\":[]"),
    ("CNP: empty ingress", "\"ingress\":[]"),
    ("CNP: ingress is null", "\"ingress\":null"),
    ("CNP: staged", "\"ringfence.dev/mode\":\"audit\""),
];

pub(super) fn features(cluster: &Cluster) -> Vec<(&'static str, bool)> {
    let kind = "ClusterNetworkPolicy";
    let policies = cluster.objects.iter().filter(|o| o["kind"] == kind);
    let policies: Vec<&Value> = policies.collect();
    let text: String = policies.iter().map(|p| p.to_string()).collect();
    let texts = TEXTS
        .iter()
        .map(|(name, piece)| (*name, text.contains(piece)));
    let mut found: Vec<_> = texts.collect();
    found.extend(of_policies(&policies));
    found.extend(of_verdicts(&said(cluster, !policies.is_empty())));
    found
}

fn of_policies(policies: &[&Value]) -> [(&'static str, bool); 6] {
    let equal = |one: &Value, other: &Value| {
        let same = |field| one["spec"][field] == other["spec"][field];
        one != other && same("tier") && same("priority")
    };
    let any = |wanted: &dyn Fn(&Value) -> bool| policies.iter().any(|p| wanted(p));
    [
        ("CNP: none", policies.is_empty()),
        ("CNP: invalid", any(&is_invalid)),
        ("CNP: invalid subject", any(&|p| is_spoilt(p, "subject"))),
        ("CNP: invalid tier", any(&|p| is_spoilt(p, "tier"))),
        ("CNP: two of one priority", any(&|p| any(&|o| equal(p, o)))),
        ("CNP: Pass before Deny", any(&passes_first)),
    ]
}

/// Whether a field is what makes a policy invalid: with another it isn't.
fn is_spoilt(policy: &Value, field: &str) -> bool {
    let mut mended = policy.clone();
    mended["spec"][field] = match field {
        "subject" => serde_json::json!({"namespaces": {}}),
        _ => serde_json::json!("Admin"),
    };
    is_invalid(policy) && !is_invalid(&mended)
}

fn passes_first(policy: &Value) -> bool {
    ["ingress", "egress"].iter().any(|way| {
        let rules = policy["spec"][*way].as_array().into_iter().flatten();
        let mut rest = rules.skip_while(|rule| rule["action"] != "Pass");
        rest.any(|rule| rule["action"] == "Deny")
    })
}

/// What the tiers say of the probes, each answer once.
fn said(cluster: &Cluster, has_policies: bool) -> Vec<Opinions> {
    let oracle = Oracle::of_node(&cluster.objects, NODE);
    let probes = cluster.probes.iter().filter(|_| has_policies);
    let all: BTreeSet<Opinions> = probes.flat_map(|probe| oracle.said(probe)).collect();
    all.into_iter().collect()
}

fn of_verdicts(said: &[Opinions]) -> [(&'static str, bool); 12] {
    use Action::{Accept, Deny, Pass};
    let any = |wanted: &dyn Fn(&Opinions) -> bool| said.iter().any(wanted);
    let above = |action, below| any(&|o| o.admin == Some(action) && o.policies == Some(below));
    let last = |action| {
        any(&|o| {
            matches!(o.admin, None | Some(Pass)) && o.policies.is_none() && o.baseline == action
        })
    };
    let over = |said, action| {
        any(&|o| {
            matches!(o.admin, None | Some(Pass))
                && o.policies == Some(said)
                && o.baseline == Some(action)
        })
    };
    [
        ("probe: Admin Accept above a denial", above(Accept, false)),
        ("probe: Admin Deny above a grant", above(Deny, true)),
        ("probe: Admin Pass to a denial", above(Pass, false)),
        ("probe: Admin Pass to a grant", above(Pass, true)),
        (
            "probe: Admin Pass to a Baseline Deny",
            any(&|o| (o.admin, o.policies, o.baseline) == (Some(Pass), None, Some(Deny))),
        ),
        (
            "probe: Admin Accept above a Baseline Deny",
            any(&|o| (o.admin, o.policies, o.baseline) == (Some(Accept), None, Some(Deny))),
        ),
        ("probe: Baseline Accept", last(Some(Accept))),
        ("probe: Baseline Deny", last(Some(Deny))),
        ("probe: Baseline Pass", last(Some(Pass))),
        ("probe: no tier says anything", last(None)),
        ("probe: a grant over a Baseline Deny", over(true, Deny)),
        (
            "probe: a denial over a Baseline Accept",
            over(false, Accept),
        ),
    ]
}
