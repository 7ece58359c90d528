//! Addresses of Services: who they are, beside what policy says of them.

use ringfence_ebpf::abi::{Addr, Identity};
use serde_json::{Value, json};

use crate::{
    compile::Compiler,
    index::{Index, Scope},
    tables::Tables,
    testing::{index, object, pod},
};

const SERVICE: u32 = Identity::IS_SERVICE;

/// A Service `b/web` with these fields of its spec, and addresses of a balancer.
fn service(name: &str, spec: Value, balancer: Value) -> Value {
    let mut all = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    for (key, value) in spec.as_object().expect("fields") {
        all[key] = value.clone();
    }
    json!({
        "kind": "Service", "metadata": {"namespace": "b", "name": name}, "spec": all,
        "status": {"loadBalancer": {"ingress": balancer}},
    })
}

fn external(name: &str, own: &str, shared: &str) -> Value {
    let spec = json!({"clusterIP": own, "externalIPs": [shared]});
    service(name, spec, json!([]))
}

/// Name and flags of an address.
fn who<'t>(tables: &'t Tables, ip: &str) -> Option<(&'t str, u32)> {
    let ip: std::net::IpAddr = ip.parse().expect(ip);
    let identity = tables.identities.get(&Addr::from(ip));
    identity.map(|(name, flags)| (&**name, *flags))
}

fn tables(objects: impl IntoIterator<Item = Value>) -> Tables {
    index(objects).compile(&Scope::Node("n1".into()))
}

#[test]
fn every_address_of_a_service_is_known_by_the_services_name_and_has_no_class() {
    let spec = json!({
        "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
        "externalIPs": ["198.51.100.7"], "type": "LoadBalancer",
    });
    let balancer = json!([{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]);
    let tables = tables([service("web", spec, balancer)]);
    for ip in ["10.96.0.7", "fd00::7", "198.51.100.7", "203.0.113.7"] {
        assert_eq!(who(&tables, ip), Some(("b/web", SERVICE)), "{ip}");
    }
    assert_eq!((tables.identities.len(), tables.classes.len()), (4, 0));
}

#[test]
fn nodes_forward_nothing_for_services_without_an_address_of_their_own() {
    for spec in [
        json!({"clusterIP": "None", "externalIPs": ["198.51.100.7"]}),
        json!({"clusterIP": "", "externalIPs": ["198.51.100.7"]}),
        json!({"type": "ExternalName", "clusterIP": "10.96.0.7"}),
    ] {
        let tables = tables([service("web", spec.clone(), json!([{"ip": "203.0.113.7"}]))]);
        assert!(tables.identities.is_empty(), "{spec}");
    }
    let balancer = json!([{"ip": "203.0.113.7", "ipMode": "Proxy"}]);
    let proxied = tables([service("web", json!({"clusterIP": "10.96.0.7"}), balancer)]);
    assert_eq!(who(&proxied, "203.0.113.7"), None);
    assert_eq!(who(&proxied, "10.96.0.7"), Some(("b/web", SERVICE)));
}

#[test]
fn an_address_that_is_a_pods_or_a_nodes_as_well_keeps_its_name_and_has_both_flags() {
    let node = json!({
        "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    });
    let spec = json!({"clusterIP": "10.96.0.7", "externalIPs": ["192.168.0.1", "10.0.0.1"]});
    let tables = tables([
        node,
        pod("b/server", "10.0.0.1", json!({"app": "server"})),
        service("web", spec, json!([])),
    ]);
    let this_node = Identity::IS_NODE | Identity::IS_THIS_NODE;
    let node = Some(("node", this_node | SERVICE));
    assert_eq!(who(&tables, "192.168.0.1"), node);
    assert_eq!(who(&tables, "10.0.0.1"), Some(("b/server", SERVICE)));
}

#[test]
fn an_address_of_several_services_has_the_first_name_in_whatever_order_they_come() {
    let (a, z) = (
        external("a", "10.96.0.1", "198.51.100.7"),
        external("z", "10.96.0.2", "198.51.100.7"),
    );
    for both in [[a.clone(), z.clone()], [z, a]] {
        let tables = tables(both);
        assert_eq!(who(&tables, "198.51.100.7"), Some(("b/a", SERVICE)));
    }
}

/// Brings both to one more step, which from scratch would come to the same.
fn followed(index: &mut Index, compiler: &mut Compiler) -> Tables {
    compiler.update(index);
    let tables = compiler.tables().clone();
    assert_eq!(tables, index.compile(&Scope::Node("n1".into())));
    tables
}

#[test]
fn addresses_are_followed_as_services_and_pods_come_change_and_go() {
    let mut index = index([external("a", "10.96.0.1", "198.51.100.7")]);
    let mut compiler = Compiler::new(Scope::Node("n1".into()));
    let mut step = |change: &dyn Fn(&mut Index)| {
        change(&mut index);
        followed(&mut index, &mut compiler)
    };
    step(&|_| {});
    let shared = "198.51.100.7";
    let tables = step(&|index| index.apply(object(external("z", "10.96.0.2", shared))));
    assert_eq!(who(&tables, "10.96.0.2"), Some(("b/z", SERVICE)));
    assert_eq!(who(&tables, shared), Some(("b/a", SERVICE)));
    let tables = step(&|index| index.delete("Service", "b", "a"));
    assert_eq!(who(&tables, "10.96.0.1"), None);
    assert_eq!(who(&tables, shared), Some(("b/z", SERVICE)));
    let guest = pod("b/guest", shared, json!({"app": "guest"}));
    let tables = step(&|index| index.apply(object(guest.clone())));
    assert_eq!(who(&tables, shared), Some(("b/guest", SERVICE)));
    let tables = step(&|index| index.apply(object(external("z", "10.96.0.3", "10.96.0.3"))));
    assert_eq!(who(&tables, shared), Some(("b/guest", 0)));
    assert_eq!(who(&tables, "10.96.0.2"), None);
    let tables = step(&|index| {
        index.delete("Pod", "b", "guest");
        index.delete("Service", "b", "z");
    });
    assert!(tables.identities.is_empty());
}
