//! The addresses of the node's own interfaces, in addition to those in objects.

use std::net::IpAddr;

use ringfence_ebpf::abi::{Addr, Identity};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::Compiler,
    index::{Index, Scope},
    tables::Tables,
    testing::{index, object, pod},
};

const OWN: u32 = Identity::IS_NODE | Identity::IS_THIS_NODE;

fn scope() -> Scope {
    Scope::Node("n1".to_owned())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Returns name and flags of an address, if it has an entry.
fn who(tables: &Tables, address: &str) -> Option<(String, u32)> {
    let found = tables.identities.get(&Addr::from(ip(address)));
    found.map(|(name, flags)| (name.to_string(), *flags))
}

fn node(name: &str, address: &str) -> Value {
    json!({
        "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

/// Updates a compiler and checks the tables against a compilation from scratch.
fn followed(compiler: &mut Compiler, index: &mut Index) -> Tables {
    compiler.update(index);
    assert_eq!(*compiler.tables(), index.compile(&scope()));
    compiler.tables().clone()
}

#[test]
fn addresses_of_the_nodes_interfaces_are_the_nodes_for_as_long_as_they_are_there() {
    let mut index = index([node("n1", "192.168.0.1"), pod("a/p", "10.0.0.1", json!({}))]);
    let mut compiler = Compiler::new(scope());
    followed(&mut compiler, &mut index);
    let own = ["192.168.0.1", "169.254.1.1", "fe80::1"];
    assert!(index.set_own_addresses("n1", own.map(ip)));
    let tables = followed(&mut compiler, &mut index);
    for address in own {
        let expected = Some(("node".to_owned(), OWN));
        assert_eq!(who(&tables, address), expected, "{address}");
    }
    assert!(!index.set_own_addresses("n1", own.map(ip)), "no news");
    assert!(index.set_own_addresses("n1", [ip("fe80::1")]));
    let tables = followed(&mut compiler, &mut index);
    assert_eq!(who(&tables, "169.254.1.1"), None);
    assert!(who(&tables, "fe80::1").is_some());
    // The Node object still lists it.
    assert!(who(&tables, "192.168.0.1").is_some());
}

#[test]
fn an_address_that_a_pod_shows_stays_the_pods() {
    let mut index = index([pod("a/p", "10.0.0.1", json!({"app": "p"}))]);
    let mut compiler = Compiler::new(scope());
    index.set_own_addresses("n1", [ip("10.0.0.1")]);
    let tables = followed(&mut compiler, &mut index);
    assert_eq!(who(&tables, "10.0.0.1"), Some(("a/p".to_owned(), 0)));
    index.delete(&ObjectKey::new(Kind::Pod, "a", "p"));
    let tables = followed(&mut compiler, &mut index);
    assert_eq!(who(&tables, "10.0.0.1"), Some(("node".to_owned(), OWN)));
}

#[test]
fn a_service_on_an_address_of_the_node_leaves_it_the_nodes() {
    let mut index = index([]);
    let mut compiler = Compiler::new(scope());
    index.set_own_addresses("n1", [ip("192.0.2.7")]);
    followed(&mut compiler, &mut index);
    index.apply(object(json!({
        "kind": "Service", "metadata": {"namespace": "evil", "name": "s"},
        "spec": {
            "clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.7"],
            "ports": [{"port": 80}], "selector": {"app": "x"},
        },
    })));
    let tables = followed(&mut compiler, &mut index);
    let (name, flags) = who(&tables, "192.0.2.7").expect("an entry");
    assert_eq!((name.as_str(), flags & OWN), ("node", OWN));
}

#[test]
fn they_are_of_no_node_where_all_pods_are_compiled() {
    let mut index = index([]);
    index.set_own_addresses("n1", [ip("192.0.2.7")]);
    let tables = index.compile(&Scope::Everything);
    let flags = who(&tables, "192.0.2.7").map(|(_, flags)| flags);
    assert_eq!(flags, Some(Identity::IS_NODE));
}
