//! Objects that don't parse.

use ringfence::kubernetes::Kind;
use ringfence_policy::tables::Tables;
use serde_json::{Value, json};

use crate::mirror::{Mirror, pod, policy, shop};

fn put(mirror: &Mirror, object: Value) {
    mirror.server.apply_value(object).unwrap();
}

/// Returns the object with an invalid value in it.
fn spoilt(mirror: &Mirror, resource: &str, name: &str, path: &str, wrong: Value) -> Value {
    let namespace = if resource == "namespaces" { "" } else { "shop" };
    let mut object = mirror.server.get(resource, namespace, name).unwrap();
    let (parent, field) = path.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = wrong;
    object
}

async fn invalid(mirror: &mut Mirror, count: usize) {
    let told = |mirror: &mut Mirror| mirror.inbox.invalid().len() == count;
    mirror.until("what doesn't parse is told", told).await;
}

fn endpoint(tables: &Tables, name: &str) -> String {
    let mut all = tables.endpoints.iter();
    let found = all.find(|(pod, _)| pod.name == name);
    found.map_or("none".into(), |(_, policy)| format!("{policy:?}"))
}

#[tokio::test]
async fn the_last_valid_form_of_anything_stays() {
    let mut mirror = shop().await;
    let before = mirror.tables();
    for (resource, name, path, wrong) in [
        ("networkpolicies", "p", "/spec/ingress", json!("all")),
        (
            "pods",
            "a",
            "/spec/containers",
            json!([{"ports": [{"containerPort": 99_999}]}]),
        ),
        ("namespaces", "shop", "/metadata/labels", json!(["none"])),
        ("pods", "b", "/metadata/labels", json!(7)),
    ] {
        let object = spoilt(&mirror, resource, name, path, wrong);
        put(&mirror, object);
    }
    invalid(&mut mirror, 4).await;
    assert_eq!(mirror.tables(), before);
    assert_eq!(mirror.row(Kind::Pod).errors, 0, "no fault of the watch");

    // A list from scratch has no last valid versions of these objects; this mirror has.
    mirror
        .server
        .inject("*", ringfence_tests::apiserver::Fault::GoneEvent, 7);
    let lists = |mirror: &mut Mirror| mirror.row(Kind::Namespace).lists == 2;
    mirror.until("a new list", lists).await;
    assert_eq!(mirror.tables(), before);

    mirror.server.apply(&pod("a", 1)).unwrap();
    mirror.server.apply(&pod("b", 2)).unwrap();
    mirror.server.apply(crate::mirror::SHOP).unwrap();
    mirror.server.apply(&policy("p", "a", "b")).unwrap();
    invalid(&mut mirror, 0).await;
    mirror.recovers("once all parse").await;
    assert_eq!(mirror.tables(), before);
}

#[tokio::test]
async fn a_policy_that_never_parsed_is_closed() {
    let mut mirror = shop().await;
    let mut never = mirror.server.get("networkpolicies", "shop", "p").unwrap();
    never["metadata"] = json!({"name": "never", "namespace": "shop"});
    never["spec"]["podSelector"] = json!({"matchLabels": {"app": "b"}});
    never["spec"]["ingress"] = json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]);
    let open = endpoint(&mirror.tables(), "b");
    put(&mirror, never);
    invalid(&mut mirror, 1).await;
    mirror.agrees("closed, as from scratch").await;
    assert_ne!(endpoint(&mirror.tables(), "b"), open);
    mirror
        .server
        .delete("networkpolicies", "shop", "never")
        .unwrap();
    invalid(&mut mirror, 0).await;
    assert_eq!(endpoint(&mirror.tables(), "b"), open);
}

#[tokio::test]
async fn a_pod_that_never_parsed_is_under_quarantine_and_not_absent() {
    let mut mirror = shop().await;
    let mut never = mirror.server.get("pods", "shop", "a").unwrap();
    never["metadata"] = json!({"name": "never", "namespace": "shop", "labels": "none"});
    never["status"]["podIP"] = "10.0.0.77".into();
    put(&mirror, never.clone());
    invalid(&mut mirror, 1).await;
    let known = mirror.index.pod("shop", "never").unwrap();
    assert_eq!(known.node(), Some("node-a"));
    let mut quarantined = never.clone();
    quarantined["metadata"]["labels"] = json!({"ringfence.dev/quarantine": "true"});
    let closed = endpoint(&mirror.tables(), "never");
    assert!(closed.contains("10.0.0.77"), "{closed}");
    // Its address may change while it still doesn't parse.
    never["status"]["podIP"] = "10.0.0.78".into();
    put(&mirror, never);
    let moved = |mirror: &mut Mirror| endpoint(&mirror.tables(), "never").contains("10.0.0.78");
    mirror.until("its new address", moved).await;
    quarantined["status"]["podIP"] = "10.0.0.78".into();
    put(&mirror, quarantined);
    invalid(&mut mirror, 0).await;
    mirror.recovers("as a pod under quarantine").await;
}

#[tokio::test]
async fn another_pod_of_a_known_name_that_never_parsed_doesnt_inherit() {
    let mut mirror = shop().await;
    let mut other = spoilt(&mirror, "pods", "a", "/metadata/labels", json!(1));
    other["metadata"]["uid"] = "another".into();
    other["status"]["podIP"] = "10.0.0.99".into();
    put(&mirror, other);
    invalid(&mut mirror, 1).await;
    let now = endpoint(&mirror.tables(), "a");
    assert!(now.contains("10.0.0.99"), "{now}");
}

#[tokio::test]
async fn a_namespace_that_never_parsed_closes_its_pods() {
    let mut mirror = shop().await;
    put(
        &mirror,
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "odd", "labels": 7}}),
    );
    let mut guest = mirror.server.get("pods", "shop", "a").unwrap();
    guest["metadata"] = json!({"name": "guest", "namespace": "odd"});
    guest["status"]["podIP"] = "10.0.0.50".into();
    put(&mirror, guest);
    invalid(&mut mirror, 1).await;
    let there = |mirror: &mut Mirror| mirror.index.pod("odd", "guest").is_some();
    mirror.until("its pod", there).await;
    let closed = endpoint(&mirror.tables(), "guest");
    put(
        &mirror,
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "odd"}}),
    );
    invalid(&mut mirror, 0).await;
    mirror.recovers("once it parses").await;
    assert_ne!(endpoint(&mirror.tables(), "guest"), closed);
}
