//! How an agent, or a person, copes with clusters that can't be queried.

use std::fs;

use ringfence_tests::agent::Credentials;

use crate::Cluster;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_kubeconfig_that_cant_be_read_is_refused_before_anything_is_attached() {
    let mut cluster = Cluster::open();
    let file = cluster.shop.net.dir().join("other");
    cluster.shop.agent.cluster = Some(Credentials::Kubeconfig(file.clone()));
    for text in [None, Some("clusters: 7"), Some("kind: Config"), Some("}{")] {
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let ended = cluster.shop.agent.refused().unwrap();
        assert_eq!(ended.code, 2, "{ended:?}");
        let said = format!("ringfence: --kubeconfig {}: ", file.display());
        assert!(ended.stderr.starts_with(&said), "{ended:?}");
        assert!(!cluster.shop.agent.pin_dir.exists(), "pins");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn questions_are_answered_by_a_cluster_as_by_manifests() {
    let cluster = Cluster::open();
    let kubeconfig = cluster.shop.net.dir().join("kubeconfig");
    let (kubeconfig, manifests) = (kubeconfig.to_string_lossy(), cluster.shop.manifests.clone());
    let manifests = manifests.to_string_lossy();
    let agent = &cluster.shop.agent;
    for question in [
        &["explain", "shop/client", "shop/server", "TCP/8080"][..],
        &[
            "explain",
            "shop/rogue",
            "shop/server",
            "TCP/8080",
            "-o",
            "json",
        ],
        &["matrix", "--port", "TCP/8080", "--port", "TCP/1"],
        &["callers", "shop/server", "-o", "json"],
    ] {
        let of = |source: &[&str]| agent.run_on_node(&[question, source].concat()).unwrap();
        let one = of(&["--kubeconfig", &kubeconfig]);
        let other = of(&["--manifests", &manifests]);
        assert_eq!(one.stderr, "", "{question:?}");
        assert_eq!((one.code, &one.stdout), (other.code, &other.stdout));
        assert!(!one.stdout.is_empty());
    }
    cluster.server.stop();
    let ended = agent
        .run_on_node(&["callers", "shop/server", "--kubeconfig", &kubeconfig])
        .unwrap();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.stderr.contains("listing Namespaces"), "{ended:?}");
}
