//! The permissions a person needs, and how refusals are reported.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use ringfence_tests::apiserver::Fault;
use ringfence_tests::deployed::{deploy, documents, only, strings};
use serde_json::Value;

use crate::{Cluster, agent_pod, arguments};

/// Returns the (verb, resource) pairs that the roles of deploy/components/operators allow.
fn granted() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(deploy("components/operators/rbac.yaml")).unwrap();
    let documents = documents(&text).unwrap();
    let rules = documents
        .iter()
        .filter_map(|document| document["rules"].as_array());
    let mut granted = BTreeSet::new();
    for rule in rules.flatten() {
        for resource in strings(&rule["resources"]) {
            let pair = |verb| (verb, resource.clone());
            granted.extend(strings(&rule["verbs"]).into_iter().map(pair));
        }
    }
    granted
}

#[tokio::test]
async fn the_operators_roles_grant_each_verb_that_asking_takes_and_none_to_spare() {
    let cluster = Cluster::of(&["a"]);
    cluster.run_in_pods(|_| "echo []".to_owned());
    let fleet = cluster.find("--all-nodes").await.unwrap();
    let answers = fleet
        .ask_all::<Vec<Value>>(&["connections"], Duration::ZERO)
        .await;
    assert!(answers[0].1.is_ok());
    assert_eq!(cluster.server.requests(), granted());
}

#[tokio::test]
async fn a_refusal_names_the_verb_the_resource_and_the_namespace() {
    let cluster = Cluster::of(&["a"]);
    let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"User \"dev\" cannot create resource"}"#;
    let forbid = |resource: &str| {
        let (code, retry_after, body) = (403, None, body.to_owned());
        let fault = Fault::Answer {
            code,
            retry_after,
            body,
        };
        cluster.server.inject(resource, fault, 1);
    };
    forbid("pods");
    let said = cluster.find("--node a").await.unwrap_err().to_string();
    let expected = "you may not list pods in namespace ringfence: this requires the verb list \
                    on pods in namespace ringfence (User \"dev\" cannot create resource)";
    assert_eq!(said, expected);
    forbid("nodes");
    let said = cluster.find("--all-nodes").await.unwrap_err().to_string();
    let expected = "you may not list nodes: this requires the verb list on nodes; --node NODE \
                    doesn't need it (User \"dev\" cannot create resource)";
    assert_eq!(said, expected);
    let fleet = cluster.find("--node a").await.unwrap();
    forbid("pods/exec");
    let mut answers = fleet
        .ask_all::<Vec<Value>>(&["connections"], Duration::ZERO)
        .await;
    let said = answers.remove(0).1.unwrap_err().to_string();
    let expected = "you may not exec in its pod: this requires the verbs get and create on \
                    pods/exec in namespace ringfence (User \"dev\" cannot create resource)";
    assert_eq!(said, expected);
}

#[test]
fn agents_are_looked_for_where_the_manifests_put_them() {
    let text = fs::read_to_string(deploy("base/daemonset.yaml")).unwrap();
    let documents = documents(&text).unwrap();
    let set = only(&documents, "DaemonSet").unwrap();
    let (_, args) = arguments("--all-nodes");
    assert_eq!(set["metadata"]["namespace"], args.agent_namespace);
    let (key, value) = args.agent_selector.split_once('=').unwrap();
    assert_eq!(set["spec"]["template"]["metadata"]["labels"][key], value);
    // The tests' pods use the same container name.
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["name"],
        agent_pod("n")["spec"]["containers"][0]["name"]
    );
    let image = fs::read_to_string(deploy("Dockerfile")).unwrap();
    assert!(image.contains("ENTRYPOINT [\"/bin/ringfence\"]"), "{image}");
}
