use std::collections::HashMap;

use super::messages::{
    LinuxStatus, Metadata, NamespaceOptions, Namespaces, NetworkStatus, PodIp, SandboxStatus,
};
use super::*;

fn item() -> Item {
    Item {
        id: "c1".into(),
        metadata: Some(Metadata {
            name: "web-0".into(),
            uid: "u1".into(),
            namespace: "shop".into(),
        }),
        created_at: 1_000,
    }
}

/// Returns an answer of containerd or CRI-O to a `verbose` request.
fn answer(network: i32, info: &str) -> StatusResponse {
    let options = NamespaceOptions { network };
    StatusResponse {
        status: Some(SandboxStatus {
            network: Some(NetworkStatus {
                ip: "10.0.0.5".into(),
                additional_ips: vec![PodIp {
                    ip: "fd00::5".into(),
                }],
            }),
            linux: Some(LinuxStatus {
                namespaces: Some(Namespaces {
                    options: Some(options),
                }),
            }),
        }),
        info: HashMap::from([("info".to_owned(), info.to_owned())]),
    }
}

const INFO: &str = r#"{"pid": 7, "runtimeSpec": {"linux": {"namespaces": [
    {"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]}}}"#;

#[test]
fn a_sandbox_is_read_with_its_namespace_and_addresses() {
    let found = sandbox(&item(), &answer(0, INFO)).unwrap();
    assert_eq!((&*found.id, found.uid.as_deref()), ("c1", Some("u1")));
    assert_eq!(found.netns, Some("/var/run/netns/cni-1".into()));
    let addresses: Vec<String> = found.addresses.iter().map(IpAddr::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
}

#[test]
fn a_pod_on_the_host_network_has_no_sandbox_of_its_own() {
    assert_eq!(sandbox(&item(), &answer(ON_NODE, INFO)), None);
}

#[test]
fn what_a_runtime_keeps_beside_may_be_missing_or_odd() {
    for info in ["", "{}", r#"{"runtimeSpec": 7}"#] {
        let found = sandbox(&item(), &answer(0, info)).unwrap();
        assert_eq!((found.netns, found.addresses.len()), (None, 2), "{info}");
    }
}

#[tokio::test]
async fn a_runtime_that_isnt_there_is_named_and_left_alone_for_a_while() {
    let mut cri = Cri::new("/nonexistent/runtime.sock".into());
    let (first, second) = tokio::task::spawn_blocking(move || {
        let first = format!("{:#}", cri.look().unwrap_err());
        (first, format!("{:#}", cri.look().unwrap_err()))
    })
    .await
    .unwrap();
    assert!(
        first.contains("--cri-socket /nonexistent/runtime.sock"),
        "{first}"
    );
    assert!(second.contains("doesn't answer"), "{second}");
}
