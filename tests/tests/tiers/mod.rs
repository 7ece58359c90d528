//! Properties of ClusterNetworkPolicies that hold in any cluster.

use ringfence_policy::diff::Change;
use ringfence_tests::oracle::check::{self, compile, describe};
use ringfence_tests::oracle::{Expected, Probe, Verdict, is_invalid};
use ringfence_tests::random::{self, Dice};
use serde_json::{Value, json};

use super::{VIEW, seeds};

/// A cluster with tiers, and the probes to run on it.
struct Case {
    seed: u64,
    dice: Dice,
    objects: Vec<Value>,
    probes: Vec<Probe>,
}

fn is_cluster_policy(object: &Value) -> bool {
    object["kind"] == "ClusterNetworkPolicy"
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut objects = random::cluster(seed).objects;
        if !objects.iter().any(is_cluster_policy) {
            for name in ["cnp-2", "cnp-1", "bnp-3"] {
                objects.push(random::cluster_policy(&mut dice, name, &objects));
            }
        }
        let probes = random::more_probes(&mut dice, &objects);
        Self {
            seed,
            dice,
            objects,
            probes,
        }
    }

    fn answers(&self, objects: &[Value]) -> Vec<Expected> {
        let tables = compile(objects, VIEW).expect("objects parse");
        let answer = |probe| check::answer(&tables, probe);
        self.probes.iter().map(answer).collect()
    }

    /// Asserts that `fits` holds for both directions of every probe, before and after.
    fn compare(&self, after: &[Value], fits: impl Fn(Verdict, Verdict) -> bool) {
        let (old, new) = (self.answers(&self.objects), self.answers(after));
        for (probe, (old, new)) in self.probes.iter().zip(old.into_iter().zip(new)) {
            let both = fits(old.ingress, new.ingress) && fits(old.egress, new.egress);
            let (seed, probe) = (self.seed, describe(probe));
            assert!(both, "seed {seed}: {probe}: {old:?} became {new:?}");
        }
    }

    /// Returns the objects with one more rule, anywhere in a policy that parses.
    fn one_more_rule(&mut self, action: &str) -> Vec<Value> {
        let mut objects = self.objects.clone();
        let way = self.dice.pick(&["ingress", "egress"]);
        let rule = random::cluster_rule(&mut self.dice, way, action, &objects);
        let fits = |o: &&mut Value| is_cluster_policy(o) && !is_invalid(o);
        let mut policies: Vec<_> = objects.iter_mut().filter(fits).collect();
        if !policies.is_empty() {
            let which = self.dice.below(policies.len());
            let spec = &mut policies[which]["spec"];
            match spec.get_mut(way).and_then(Value::as_array_mut) {
                Some(rules) => rules.insert(self.dice.below(rules.len() + 1), rule),
                None => spec[way] = json!([rule]),
            }
        }
        objects
    }

    /// Returns the objects and one more policy, with rules of its own.
    fn one_more(&mut self, name: &str) -> Vec<Value> {
        let mut objects = self.objects.clone();
        objects.push(random::cluster_policy(&mut self.dice, name, &objects));
        objects
    }
}

#[test]
fn one_more_accept_rule_anywhere_never_denies() {
    for seed in seeds(6_000_000) {
        let mut case = Case::new(seed);
        let after = case.one_more_rule("Accept");
        case.compare(&after, |old, new| new >= old);
    }
}

#[test]
fn one_more_deny_rule_anywhere_never_allows() {
    for seed in seeds(7_000_000) {
        let mut case = Case::new(seed);
        let after = case.one_more_rule("Deny");
        case.compare(&after, |old, new| new <= old);
    }
}

#[test]
fn pass_rules_at_the_end_of_a_tier_change_nothing() {
    for seed in seeds(8_000_000) {
        let mut case = Case::new(seed);
        let mut after = case.one_more("z-last");
        let passes = |dice: &mut Dice, way| json!([random::cluster_rule(dice, way, "Pass", &[])]);
        let tier = case.dice.pick(&["Admin", "Baseline"]);
        let spec = after.last_mut().map(|last| &mut last["spec"]);
        *spec.expect("one more") = json!({
            "tier": tier, "priority": 1000, "subject": {"namespaces": {}},
            "ingress": passes(&mut case.dice, "ingress"),
            "egress": passes(&mut case.dice, "egress"),
        });
        case.compare(&after, |old, new| new == old);
    }
}

#[test]
fn a_staged_policy_never_changes_an_enforced_verdict() {
    for seed in seeds(9_000_000) {
        let mut case = Case::new(seed);
        let mut after = case.one_more("a-staged");
        if let Some(last) = after.last_mut() {
            last["metadata"]["annotations"] = json!({"ringfence.dev/mode": "audit"});
        }
        let denied = |verdict| verdict == Verdict::Deny;
        case.compare(&after, |old, new| denied(old) == denied(new));
    }
}

/// Shifts all priorities by an amount that there is room for; returns `None` if there
/// is none.
fn shifted(dice: &mut Dice, objects: &[Value]) -> Option<Vec<Value>> {
    let mut objects = objects.to_vec();
    let fits = |o: &&mut Value| is_cluster_policy(o);
    let mut places: Vec<&mut Value> = objects
        .iter_mut()
        .filter(fits)
        .map(|o| &mut o["spec"]["priority"])
        .collect();
    let given = places.iter().map(|p| p.as_u64());
    let given: Vec<u64> = given.collect::<Option<_>>()?;
    let (first, last) = (*given.iter().min()?, *given.iter().max()?);
    let room = usize::try_from(1000_u64.checked_sub(last)? + first).ok()?;
    let target = dice.below(room + 1) as u64;
    for (place, old) in places.iter_mut().zip(given) {
        **place = json!(old - first + target);
    }
    Some(objects)
}

#[test]
fn priorities_that_move_alike_change_nothing() {
    for seed in seeds(10_000_000) {
        let mut case = Case::new(seed);
        case.objects.retain(|o| !is_invalid(o));
        let Some(after) = shifted(&mut case.dice, &case.objects) else {
            continue;
        };
        let [old, new] = [&case.objects, &after].map(|o| compile(o, VIEW).expect("objects parse"));
        case.compare(&after, |old, new| new == old);
        let change = Change::between(&old, &new);
        assert!(change.raised.is_empty(), "seed {seed}: {change:?}");
    }
}

#[test]
fn a_policy_and_its_two_halves_are_one() {
    for seed in seeds(11_000_000) {
        let mut case = Case::new(seed);
        let mut after = Vec::new();
        for mut object in case.objects.clone() {
            if is_cluster_policy(&object) && !is_invalid(&object) {
                let mut rest = object.clone();
                // Sorts directly after the first part: no other name sorts between them.
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                rest["metadata"]["name"] = json!(format!("{name}-"));
                for way in ["ingress", "egress"] {
                    if let Some(rules) = object["spec"][way].as_array_mut() {
                        let at = case.dice.below(rules.len() + 1);
                        rest["spec"][way] = Value::Array(rules.split_off(at));
                    }
                }
                after.push(rest);
            }
            after.push(object);
        }
        case.compare(&after, |old, new| new == old);
    }
}

#[test]
fn below_policies_that_isolate_everybody_the_baseline_has_no_say() {
    let is_baseline = |o: &Value| o["spec"]["tier"] == "Baseline";
    for seed in seeds(12_000_000) {
        let mut case = Case::new(seed);
        for space in ["bank", "edge", "ops", "default", "kube-system"] {
            let rule = random::rule(&mut case.dice, "from", &case.objects);
            case.objects.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "isolates", "namespace": space},
                "spec": {
                    "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [rule],
                },
            }));
        }
        let mut after = case.objects.clone();
        after.retain(|o| !is_cluster_policy(o) || !is_baseline(o));
        case.compare(&after, |old, new| new == old);
    }
}

#[test]
fn whoever_stands_first_has_the_last_word() {
    for seed in seeds(13_000_000) {
        let mut case = Case::new(seed);
        let (action, said) = *case
            .dice
            .choose(&[("Accept", Verdict::Allow), ("Deny", Verdict::Deny)]);
        let mut after = case.objects.clone();
        after.push(json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "a-first"},
            "spec": {
                "tier": "Admin", "priority": 0, "subject": {"namespaces": {}},
                "egress": [random::everybody("egress", action)],
            },
        }));
        for (probe, new) in case.probes.iter().zip(case.answers(&after)) {
            let fits = [Verdict::NotManaged, said].contains(&new.egress);
            assert!(fits, "seed {seed}: {}: {new:?}", describe(probe));
        }
    }
}
