use ringfence_ebpf::{abi::Direction, verdict::Policy};

use super::*;
use crate::model::{Kind, ObjectKey};
use crate::{
    compile::{Capacity, Compiler},
    config::Config,
    index::Scope,
    testing::{ask, comes_in, object, pod},
};

const UID: &str = "9b5c1c5e-6c43-4f5e-8a57-0d5a3a1b2c3d";

/// Returns a policy of `b` that lets one pod in at a port; the port is invalid if it is 0.
fn policy(uid: &str, port: u32, staged: bool) -> Value {
    let mode = if staged { "audit" } else { "enforce" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "namespace": "b", "name": "p", "uid": uid,
            "annotations": {"ringfence.dev/mode": mode},
        },
        "spec": {"podSelector": {}, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"app": "x"}}}], "ports": [{"port": port}],
        }]},
    })
}

fn cluster(uid: &str, priority: u32) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "c", "uid": uid},
        "spec": {
            "tier": "Admin", "priority": priority,
            "subject": {"namespaces": {}},
            "ingress": [{"name": "x", "action": "Deny", "from": [{"namespaces": {}}],
                "protocols": [{"tcp": {"destinationPort": {"range": {"start": 81, "end": 90}}}}]}],
        },
    })
}

fn told(objects: impl IntoIterator<Item = Value>, kept: &[KeptForm]) -> Index {
    let mut index = Index::new(Config::default());
    for form in kept {
        index.remember(form.clone()).expect("it was kept");
    }
    tell(&mut index, pods());
    tell(&mut index, objects);
    index.forget_remembered();
    index
}

fn pods() -> [Value; 2] {
    [
        pod("b/a", "10.0.0.1", json!({})),
        pod("b/x", "10.0.0.2", json!({"app": "x"})),
    ]
}

fn tell(index: &mut Index, objects: impl IntoIterator<Item = Value>) {
    for value in objects {
        match Object::from_value(value) {
            Ok(Parsed::Object(object)) => index.apply(*object),
            Ok(Parsed::Ignored) => panic!("ignored"),
            Err(error) => drop(index.apply_closed(&error)),
        }
    }
}

/// Returns the kept forms as read from a file.
fn stored(index: &Index) -> Vec<KeptForm> {
    let text = serde_json::to_string(&index.forms_in_force()).expect("to JSON");
    serde_json::from_str(&text).expect("from JSON")
}

#[test]
fn the_last_valid_form_of_a_policy_that_does_not_parse_is_in_force_in_the_next_index() {
    let mut index = told([policy(UID, 80, false), cluster(UID, 1)], &[]);
    assert_eq!(stored(&index), []);
    let before = index.forms_changed();
    tell(&mut index, [policy(UID, 0, false), cluster(UID, 5000)]);
    assert_ne!(index.forms_changed(), before);
    let kept = stored(&index);
    let names: Vec<String> = kept.iter().map(KeptForm::describe).collect();
    assert_eq!(names, ["ClusterNetworkPolicy c", "NetworkPolicy b/p"]);

    let again = told([policy(UID, 0, false), cluster(UID, 5000)], &kept);
    assert_eq!(
        again.compile(&Scope::Everything),
        index.compile(&Scope::Everything)
    );
    assert!(comes_in(&again, "b/a", "10.0.0.2", "TCP/80"));
    assert!(!comes_in(&again, "b/a", "10.0.0.2", "TCP/79"));
    assert_eq!(stored(&again), kept, "and so on");
    let without = told([policy(UID, 0, false), cluster(UID, 1)], &[]);
    assert!(!comes_in(&without, "b/a", "10.0.0.2", "TCP/80"), "closed");
}

#[test]
fn a_form_is_dropped_once_its_policy_is_valid_or_gone() {
    let mut index = told([policy(UID, 80, false)], &[]);
    tell(&mut index, [policy(UID, 0, false)]);
    let kept = stored(&index);
    let before = index.forms_changed();
    tell(&mut index, [policy(UID, 81, false)]);
    assert_ne!(index.forms_changed(), before);
    assert_eq!(stored(&index), []);
    for objects in [vec![policy(UID, 81, false)], Vec::new()] {
        let mut index = told(objects, &kept);
        assert_eq!(stored(&index), []);
        // Objects applied later aren't affected by the remembered forms.
        index.delete(&ObjectKey::new(Kind::NetworkPolicy, "b", "p"));
        tell(&mut index, [policy(UID, 0, false)]);
        assert!(!comes_in(&index, "b/a", "10.0.0.2", "TCP/80"));
    }
}

#[test]
fn another_object_of_the_same_name_inherits_no_form() {
    let mut index = told([policy(UID, 80, false)], &[]);
    tell(&mut index, [policy(UID, 0, false)]);
    let kept = stored(&index);
    let again = told([policy("another", 0, false)], &kept);
    assert!(!comes_in(&again, "b/a", "10.0.0.2", "TCP/80"));
    assert_eq!(stored(&again), []);
}

#[test]
fn a_staged_form_stays_staged() {
    let mut index = told([policy(UID, 80, true)], &[]);
    tell(&mut index, [policy(UID, 0, true)]);
    let again = told([policy(UID, 0, true)], &stored(&index));
    let tables = again.compile(&Scope::Everything);
    let verdict = ask(&tables, "b/a", Direction::Ingress, "10.0.0.2", "TCP/79");
    assert_eq!(verdict, Policy::Audit);
}

#[test]
fn a_form_that_is_not_what_it_says_is_refused() {
    let mut index = told([policy(UID, 80, false)], &[]);
    tell(&mut index, [policy(UID, 0, false)]);
    let [good] = &stored(&index)[..] else {
        panic!("one form")
    };
    let forms: [fn(&mut KeptForm); 6] = [
        |form| form.name = "other".into(),
        |form| form.namespace = "other".into(),
        |form| form.kind = "ClusterNetworkPolicy".into(),
        |form| form.object = json!(7),
        |form| form.object["spec"]["ingres"] = json!([]),
        |form| form.object = pod("b/p", "10.0.0.9", json!({})),
    ];
    for (n, spoil) in forms.into_iter().enumerate() {
        let mut form = good.clone();
        spoil(&mut form);
        assert!(Index::new(Config::default()).remember(form).is_err(), "{n}");
    }
}

/// Returns a policy that lets pods call `count` blocks.
fn blocks(count: u32) -> Value {
    let block = |n: u32| json!({"ipBlock": {"cidr": format!("20.0.{}.{}/32", n >> 8, n & 255)}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "b", "name": "p", "uid": UID},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": (0..count).map(block).collect::<Vec<_>>()}]},
    })
}

#[test]
fn the_last_form_that_had_room_is_in_force_in_the_next_index() {
    let capacity = Capacity {
        entries: 100,
        rules: 1000,
        ports: 1000,
    };
    let compiler = || Compiler::new(Scope::Everything).with_capacity(capacity);
    let mut index = told([blocks(5)], &[]);
    let mut first = compiler();
    first.update(&mut index);
    index.apply(object(blocks(200)));
    first.update(&mut index);
    let kept = stored(&index);
    assert_eq!(kept.len(), 1);

    let mut again = Index::new(Config::default());
    again.remember(kept[0].clone()).expect("it was kept");
    tell(&mut again, pods().into_iter().chain([blocks(200)]));
    again.forget_remembered();
    let mut second = compiler();
    second.update(&mut again);
    assert_eq!(second.tables(), first.tables());
    let to = |n| ask(second.tables(), "b/a", Direction::Egress, n, "TCP/80");
    assert_eq!(
        (to("20.0.0.4"), to("20.0.0.5")),
        (Policy::Allow, Policy::Deny)
    );
    assert_eq!(stored(&again), kept);
    // A policy that becomes invalid also keeps the form in force.
    let mut spoilt = blocks(1);
    spoilt["spec"]["egress"][0]["to"][0]["ipBlock"]["cidr"] = json!("nowhere");
    tell(&mut again, [spoilt.clone()]);
    second.update(&mut again);
    assert_eq!(stored(&again), kept);
    let third = told([spoilt], &kept);
    let tables = third.compile(&Scope::Everything);
    let verdict = ask(&tables, "b/a", Direction::Egress, "20.0.0.4", "TCP/80");
    assert_eq!(verdict, Policy::Allow);
}
