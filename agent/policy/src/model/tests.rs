//! Which objects are rejected, for which field, and their closed forms.

use serde_json::{Value, json};

use super::{Closed, NetworkPolicySpec, Object, ObjectError, Parsed, PolicyType};
use crate::model::{Kind, ObjectKey};
use crate::{config::Config, index::Index, testing::netpol};

pub(super) fn refused(value: Value) -> ObjectError {
    match Object::from_value(value) {
        Err(error) => error,
        Ok(parsed) => panic!("{parsed:?}"),
    }
}

#[test]
fn a_fault_in_a_network_policy_names_its_field() {
    let peer = |peer: Value| json!({"ingress": [{}, {"from": [{"podSelector": {}}, peer]}]});
    let port = |port: Value| json!({"egress": [{"ports": [port]}]});
    for (field, spec) in [
        (
            "spec.ingress[1].from[1].ipBlock.cidr",
            peer(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
        ),
        (
            "spec.ingress[1].from[1].ipBlock.except[1]",
            peer(
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/33"]}}),
            ),
        ),
        (
            "spec.ingress[1].from[1].ipBlock.cidr",
            peer(json!({"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}})),
        ),
        (
            "spec.ingress[1].from[1].ipBlock.except[0]",
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}})),
        ),
        (
            "spec.ingress[1].from[1]",
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
        ),
        ("spec.ingress[1].from[1]", peer(json!({}))),
        (
            "spec.ingress[1].from[1].podselector",
            peer(json!({"podselector": {}})),
        ),
        (
            "spec.podSelector.matchExpressions[0].operator",
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}),
        ),
        (
            "spec.podSelector.matchExpressions[0].values",
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
        ),
        (
            "spec.podSelector.matchExpressions[0].values",
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}),
        ),
        (
            "spec.podSelector.matchLabels.a b",
            json!({"podSelector": {"matchLabels": {"a b": "c"}}}),
        ),
        ("spec.egress[0].ports[0].port", port(json!({"port": 0}))),
        ("spec.egress[0].ports[0].port", port(json!({"port": 65536}))),
        ("spec.egress[0].ports[0].port", port(json!({"port": "80"}))),
        (
            "spec.egress[0].ports[0].endPort",
            port(json!({"port": 80, "endPort": 79})),
        ),
        (
            "spec.egress[0].ports[0].endPort",
            port(json!({"port": "http", "endPort": 80})),
        ),
        (
            "spec.egress[0].ports[0].endPort",
            port(json!({"endPort": 80})),
        ),
        (
            "spec.egress[0].ports[0].protocol",
            port(json!({"protocol": "ICMP"})),
        ),
        ("spec.policyTypes[0]", json!({"policyTypes": ["ingress"]})),
        ("spec.ingres", json!({"ingres": []})),
        ("spec.ingress[0]", json!({"ingress": [null]})),
    ] {
        let error = refused(netpol("b/n", spec.clone()));
        assert_eq!(error.field, field, "{spec}: {error}");
        assert!(error.closed.is_some());
    }
}

#[test]
fn the_closed_form_keeps_selector_and_types_where_they_parse() {
    let closed = |spec| -> NetworkPolicySpec {
        match refused(netpol("b/n", spec)).closed.as_deref() {
            Some(Closed::Namespaced(policy)) => policy.spec.clone(),
            other => panic!("{other:?}"),
        }
    };
    let spec = closed(
        json!({"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Egress"], "egress": [{"x": 1}]}),
    );
    assert_eq!(spec.pod_selector.match_labels["a"], "b");
    assert_eq!(spec.policy_types, [PolicyType::Egress]);
    assert!(spec.egress.is_empty());
    let spec = closed(json!({"podSelector": {"matchLabel": {"a": "b"}}, "ingress": [{}]}));
    assert_eq!(spec.pod_selector, super::LabelSelector::default());
    assert_eq!(spec.policy_types, [PolicyType::Ingress, PolicyType::Egress]);
}

#[test]
fn the_last_valid_form_of_a_policy_stays_and_the_closed_one_yields_to_a_valid_one() {
    let error = refused(netpol("b/n", json!({"x": 1})));
    let valid = || match Object::from_value(netpol("b/n", json!({"ingress": [{}]}))) {
        Ok(Parsed::Object(object)) => *object,
        other => panic!("{other:?}"),
    };
    let mut index = Index::new(Config::default());
    assert!(index.apply_closed(&error));
    assert_eq!(index.problems().len(), 1);
    index.apply(valid());
    assert_eq!(index.problems().len(), 0);
    assert!(!index.apply_closed(&error));
    assert!(index.problems()[0].message.contains("last valid form"));
    index.delete(&ObjectKey::new(Kind::NetworkPolicy, "b", "n"));
    assert_eq!(index.problems().len(), 0);
}

#[test]
fn policies_that_are_not_enforced_are_errors_and_foreign_kinds_are_ignored() {
    for (api, kind) in [
        ("v1alpha1", "ClusterNetworkPolicy"),
        ("v1beta1", "ClusterNetworkPolicy"),
        ("v1alpha1", "AdminNetworkPolicy"),
        ("v1alpha1", "BaselineAdminNetworkPolicy"),
    ] {
        let api = format!("policy.networking.k8s.io/{api}");
        let error = refused(json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}}));
        assert!(
            error.to_string().contains("not enforced by this version"),
            "{error}"
        );
    }
    for (api, kind) in [
        ("v1", "ConfigMap"),
        ("serving.knative.dev/v1", "Service"),
        ("projectcalico.org/v3", "NetworkPolicy"),
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
    ] {
        let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}});
        assert_eq!(Object::from_value(object), Ok(Parsed::Ignored));
    }
    let owned = json!({"kind": "ReplicaSet", "metadata": {"name": "x", "ownerReferences": [{"kind": "Deployment", "name": "y"}]}});
    assert_eq!(Object::from_value(owned), Ok(Parsed::Ignored));
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x"},
        "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": 1}}}}}});
    assert_eq!(
        refused(cron).field,
        "spec.jobTemplate.spec.template.spec.containers"
    );
    assert_eq!(
        refused(json!({"apiVersion": "extensions/v1beta1", "kind": "NetworkPolicy"})).field,
        "apiVersion"
    );
}

#[test]
fn objects_without_kind_name_or_shape_are_refused_without_a_panic() {
    for value in [
        json!(null),
        json!([]),
        json!("x"),
        json!({}),
        json!({"kind": "Pod"}),
        json!({"kind": "Pod", "metadata": "x"}),
        json!({"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": "x"}}),
        json!({"kind": "Pod", "metadata": {"name": "x", "labels": {"a": true}}}),
    ] {
        refused(value);
    }
    let error = refused(json!({"kind": "Pod", "metadata": {"name": "x", "labels": {"a": true}}}));
    assert_eq!(
        (error.field.as_str(), error.namespace.as_str()),
        ("metadata.labels.a", "default")
    );
}

#[test]
fn what_is_read_straight_is_what_the_long_way_reads() {
    let meta = json!({
        "name": "n", "namespace": "b", "uid": "u", "resourceVersion": "7", "creationTimestamp": null,
        "labels": {"a": "b"}, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:x": {}}}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "k": "v"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "n-1", "controller": true}],
    });
    let cases = [
        (
            "Pod",
            "v1",
            json!({"spec": {"nodeName": "x", "containers": [{"ports": null}]}, "status": {"podIP": "10.0.0.1"}}),
        ),
        (
            "Pod",
            "v1",
            json!({"spec": {"containers": [{"ports": [{"containerPort": 99_999}]}]}}),
        ),
        (
            "Namespace",
            "v1",
            json!({"spec": {"finalizers": ["kubernetes"]}}),
        ),
        (
            "Node",
            "v1",
            json!({"spec": {"podCIDR": "10.1.0.0/24"}, "status": {"addresses": []}}),
        ),
        (
            "Service",
            "v1",
            json!({"spec": {"clusterIP": "10.2.0.1", "ports": [{"port": 80}]}}),
        ),
        (
            "EndpointSlice",
            "discovery.k8s.io/v1",
            json!({"endpoints": null, "ports": [{"name": ""}]}),
        ),
        (
            "NetworkPolicy",
            "networking.k8s.io/v1",
            json!({"spec": {"podSelector": {}, "ingress": [{}]}}),
        ),
        (
            "NetworkPolicy",
            "networking.k8s.io/v1",
            json!({"spec": {"podSelector": {}, "ingress": [null]}}),
        ),
        (
            "NetworkPolicy",
            "networking.k8s.io/v1",
            json!({"spec": {"podSelector": {}, "policyTypes": null}}),
        ),
        (
            "NetworkPolicy",
            "networking.k8s.io/v1",
            json!({"spec": {"podSelectr": {}}}),
        ),
        (
            "ClusterNetworkPolicy",
            "policy.networking.k8s.io/v1alpha2",
            json!({"spec": {"tier": "Admin"}}),
        ),
    ];
    for (kind, api_version, mut object) in cases {
        object["metadata"] = meta.clone();
        let text = object.to_string();
        object["kind"] = kind.into();
        object["apiVersion"] = api_version.into();
        let long = Object::from_value(object).map(|parsed| match parsed {
            Parsed::Object(object) => *object,
            Parsed::Ignored => panic!("{kind} is ignored"),
        });
        let kind = Kind::parse(kind).expect("a kind that is read");
        assert_eq!(kind.api_version(), api_version);
        let same = Object::from_json(kind, &text);
        assert_eq!(same, long, "{text}");
    }
}

#[test]
fn a_null_in_a_map_of_strings_is_an_empty_string_and_elsewhere_nothing() {
    let read = |value: Value| match Object::from_value(value) {
        Ok(Parsed::Object(object)) => *object,
        other => panic!("{other:?}"),
    };
    let meta = json!({
        "name": "n", "namespace": "b",
        "labels": {"tier": null, "labels": null}, "annotations": {"ringfence.dev/mode": null},
    });
    let pod = read(json!({"kind": "Pod", "metadata": meta, "spec": {"nodeName": null}}));
    assert_eq!(pod.meta().labels.get("tier").map(String::as_str), Some(""));
    assert_eq!(
        pod.meta().labels.get("labels").map(String::as_str),
        Some("")
    );

    let selector = json!({"matchLabels": {"tier": null}});
    let rule = json!({"from": [{"podSelector": selector, "namespaceSelector": null}]});
    let Object::NetworkPolicy(policy) = read(json!({
        "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": meta,
        "spec": {"podSelector": selector, "ingress": [rule]},
    })) else {
        panic!("no policy")
    };
    let peer = &policy.spec.ingress[0].from[0];
    assert_eq!(peer.namespace_selector, None);
    for selector in [
        &policy.spec.pod_selector,
        peer.pod_selector.as_ref().expect("a selector"),
    ] {
        assert_eq!(
            selector.match_labels,
            [("tier".to_owned(), String::new())].into()
        );
    }
    let mode = policy.metadata.annotations.get("ringfence.dev/mode");
    assert_eq!(mode.map(String::as_str), Some(""));

    let Object::Service(service) = read(json!({
        "kind": "Service", "metadata": {"name": "n"}, "spec": {"selector": {"tier": null}},
    })) else {
        panic!("no Service")
    };
    let selector = format!("{service:?}");
    assert!(selector.contains(r#"{"tier": ""}"#), "{selector}");
    // A workload's own selector isn't a map of strings.
    let deployment = json!({
        "kind": "Deployment", "metadata": {"name": "n"},
        "spec": {"selector": {"matchLabels": null}, "template": {"metadata": {"labels": {"a": null}}}},
    });
    let stand_in = read(deployment);
    assert_eq!(
        stand_in.meta().labels.get("a").map(String::as_str),
        Some("")
    );
}

#[test]
fn ports_of_sidecars_come_after_those_of_containers_and_other_init_containers_have_none() {
    let port = |name: &str, number: u16| json!({"name": name, "containerPort": number});
    let pod = json!({
        "kind": "Pod", "metadata": {"name": "n"},
        "spec": {
            "initContainers": [
                {"ports": [port("once", 1)]},
                {"ports": [port("http", 2), port("mesh", 3)], "restartPolicy": "Always"},
                {"ports": [port("never", 4)], "restartPolicy": "OnFailure"},
            ],
            "containers": [{"ports": [port("http", 80)]}],
        },
    });
    let Ok(Parsed::Object(object)) = Object::from_value(pod) else {
        panic!("no pod")
    };
    let Object::Pod(pod) = *object else {
        panic!("no pod")
    };
    let numbers: Vec<u16> = pod.ports().map(|port| port.container_port).collect();
    assert_eq!(numbers, [80, 2, 3]);
}
