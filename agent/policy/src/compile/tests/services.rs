//! Addresses of Services: their identities, as opposed to what policy grants them.

use std::net::Ipv4Addr;

use ringfence_ebpf::abi::{Addr, Direction, Identity, capacity};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::Compiler,
    diff::Change,
    index::{Index, Scope},
    tables::Tables,
    testing::{ask, index, netpol, object, pod},
};

const SERVICE: u32 = Identity::IS_SERVICE;

/// Returns a Service in `b` with these fields of its spec, and addresses of a balancer.
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

/// Returns name and flags of an address.
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
fn an_address_that_is_a_pods_or_a_nodes_stays_theirs_whatever_a_service_shows() {
    let node = json!({
        "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    });
    let shown = ["192.168.0.1", "10.0.0.1"];
    let balancer = json!([{"ip": shown[0]}, {"ip": shown[1]}]);
    for (spec, balancer) in [
        (
            json!({"clusterIP": "10.96.0.7", "externalIPs": shown}),
            json!([]),
        ),
        (json!({"clusterIP": "10.96.0.7"}), balancer),
        (
            json!({"clusterIP": shown[0], "clusterIPs": shown}),
            json!([]),
        ),
    ] {
        let tables = tables([
            node.clone(),
            pod("b/server", "10.0.0.1", json!({"app": "server"})),
            service("web", spec, balancer),
        ]);
        let this_node = Identity::IS_NODE | Identity::IS_THIS_NODE;
        let node = Some(("node", this_node | SERVICE));
        assert_eq!(who(&tables, "192.168.0.1"), node);
        let pod = Some(("b/server", Identity::IS_CLAIMED));
        assert_eq!(who(&tables, "10.0.0.1"), pod);
    }
}

/// Returns what Services have at an address, as `TCP/80` and so on.
fn ports(tables: &Tables, ip: &str) -> Vec<String> {
    let ip: std::net::IpAddr = ip.parse().expect(ip);
    let keys = tables.service_ports(ip.into());
    keys.map(|key| format!("{}/{}", key.protocol, key.port))
        .collect()
}

#[test]
fn a_service_has_its_own_protocols_and_ports_at_each_of_its_addresses() {
    let spec = json!({
        "clusterIP": "10.96.0.7", "externalIPs": ["198.51.100.7"],
        "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}, {"port": 9, "protocol": "SCTP"}, {"port": 80, "name": "again"}],
    });
    let balancer = json!([{"ip": "203.0.113.7"}]);
    let tables = tables([service("web", spec, balancer)]);
    for ip in ["10.96.0.7", "198.51.100.7", "203.0.113.7"] {
        assert_eq!(ports(&tables, ip), ["6/80", "17/53", "132/9"], "{ip}");
    }
    assert_eq!(tables.services.len(), 9);
}

#[test]
fn services_at_one_address_have_their_ports_there_together() {
    let at = |name: &str, own: &str, port: u16| {
        let spec =
            json!({"clusterIP": own, "externalIPs": ["198.51.100.7"], "ports": [{"port": port}]});
        service(name, spec, json!([]))
    };
    let both = tables([at("a", "10.96.0.1", 80), at("z", "10.96.0.2", 443)]);
    assert_eq!(ports(&both, "198.51.100.7"), ["6/80", "6/443"]);
    assert_eq!(ports(&both, "10.96.0.2"), ["6/443"]);
    let same = tables([at("a", "10.96.0.1", 80), at("z", "10.96.0.2", 80)]);
    assert_eq!(ports(&same, "198.51.100.7"), ["6/80"]);
}

#[test]
fn a_cluster_ip_keeps_its_services_name_whoever_else_shows_it() {
    let dns = json!({
        "kind": "Service", "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]},
    });
    let tenant = external("a", "10.96.0.1", "10.96.0.10");
    for both in [[dns.clone(), tenant.clone()], [tenant, dns]] {
        let tables = tables(both);
        let dns = Some(("kube-system/kube-dns", SERVICE));
        assert_eq!(who(&tables, "10.96.0.10"), dns);
        assert_eq!(ports(&tables, "10.96.0.10"), ["6/80", "17/53"]);
    }
}

#[test]
fn what_kube_proxy_leaves_to_others_or_to_nobody_is_no_service() {
    let spec = json!({"clusterIP": "10.96.0.7", "externalIPs": ["198.51.100.7"]});
    for label in ["service-proxy-name", "headless"] {
        for value in ["other", ""] {
            let mut left = service("web", spec.clone(), json!([{"ip": "203.0.113.7"}]));
            let label = format!("service.kubernetes.io/{label}");
            left["metadata"]["labels"] = json!({label: value});
            let tables = tables([left]);
            assert!(tables.identities.is_empty() && tables.services.is_empty());
        }
    }
    let mut bare = spec;
    bare["ports"] = json!([]);
    let tables = tables([service("web", bare, json!([]))]);
    assert!(tables.identities.is_empty(), "nothing is forwarded");
}

#[test]
fn addresses_of_a_family_in_which_a_service_has_none_of_its_own_are_not_forwarded() {
    let spec = json!({"clusterIP": "10.96.0.7", "externalIPs": ["2001:db8::7", "198.51.100.7"]});
    let tables = tables([service("web", spec, json!([{"ip": "2001:db8::8"}]))]);
    assert_eq!(who(&tables, "198.51.100.7"), Some(("b/web", SERVICE)));
    for ip in ["2001:db8::7", "2001:db8::8"] {
        assert_eq!(who(&tables, ip), None, "{ip}");
    }
}

#[test]
fn no_service_changes_what_policy_says_of_an_address() {
    let policy = netpol(
        "b/caller",
        json!({
            "podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443}]}],
        }),
    );
    let caller = pod("b/caller", "10.0.0.1", json!({"app": "caller"}));
    let tables = |objects: Vec<Value>| index(objects).compile(&Scope::Everything);
    let tenant = external("a", "10.96.0.1", "203.0.113.1");
    let without = tables(vec![policy.clone(), caller.clone()]);
    let with = tables(vec![policy, caller, tenant]);
    assert_eq!(with.classes, without.classes);
    for port in ["TCP/443", "TCP/80", "UDP/443", "ICMP"] {
        let [a, b] = [&with, &without]
            .map(|tables| ask(tables, "b/caller", Direction::Egress, "203.0.113.1", port));
        assert_eq!(a, b, "{port}");
    }
}

#[test]
fn a_port_that_a_service_gains_or_loses_raises_every_pod() {
    let with = |ports: &[u16]| {
        let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port})).collect();
        service(
            "web",
            json!({"clusterIP": "10.96.0.7", "ports": ports}),
            json!([]),
        )
    };
    let bystander = pod("b/bystander", "10.0.0.1", json!({"app": "bystander"}));
    let mut index = index([with(&[80]), bystander]);
    let mut compiler = Compiler::new(Scope::Everything);
    compiler.update(&mut index);
    for (ports, differing) in [(&[80, 81][..], 1), (&[81], 1), (&[81], 0)] {
        let before = compiler.tables().clone();
        index.apply(object(with(ports)));
        let change = compiler.update(&mut index);
        assert_eq!(change.keys.services.len(), differing, "{ports:?}");
        assert_eq!(change.raised.len(), differing, "{ports:?}");
        let whole = Change::between(&before, compiler.tables());
        assert_eq!((whole.raised, whole.keys), (change.raised, change.keys));
    }
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

/// Updates the compiler and checks the tables against a compilation from scratch.
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
    let tables = step(&|index| index.delete(&ObjectKey::new(Kind::Service, "b", "a")));
    assert_eq!(who(&tables, "10.96.0.1"), None);
    assert_eq!(who(&tables, shared), Some(("b/z", SERVICE)));
    let guest = pod("b/guest", shared, json!({"app": "guest"}));
    let tables = step(&|index| index.apply(object(guest.clone())));
    assert_eq!(
        who(&tables, shared),
        Some(("b/guest", Identity::IS_CLAIMED))
    );
    assert_eq!(ports(&tables, shared), ["6/80"]);
    let tables = step(&|index| index.apply(object(external("z", "10.96.0.3", "10.96.0.3"))));
    assert_eq!(who(&tables, shared), Some(("b/guest", 0)));
    assert_eq!(who(&tables, "10.96.0.2"), None);
    let tables = step(&|index| {
        index.delete(&ObjectKey::new(Kind::Pod, "b", "guest"));
        index.delete(&ObjectKey::new(Kind::Service, "b", "z"));
    });
    assert!(tables.identities.is_empty() && tables.services.is_empty());
}

/// Returns a Service with this many addresses, and this many ports.
fn large(namespace: &str, name: &str, addresses: u32, ports: u16) -> Value {
    let from = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let shown = (1..addresses).map(|n| Ipv4Addr::from(from + n).to_string());
    let ports = (1..=ports).map(|port| json!({"port": port}));
    let spec = json!({
        "clusterIP": "10.96.1.1", "externalIPs": shown.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
    });
    let mut service = service(name, spec, json!([]));
    service["metadata"]["namespace"] = json!(namespace);
    service
}

#[test]
fn services_that_would_fill_the_table_list_nothing_and_take_nothing_from_others() {
    let all = capacity::SERVICES as usize;
    let small = || external("small", "10.96.0.1", "203.0.113.1");
    let huge = || large("evil", "huge", 300, 300);
    for both in [[small(), huge()], [huge(), small()]] {
        let index = index(both);
        let tables = index.compile(&Scope::Everything);
        assert_eq!(tables.services.len(), 2);
        assert_eq!(ports(&tables, "203.0.113.1"), ["6/80"]);
        let unlisted = Some(("evil/huge", SERVICE | Identity::IS_UNLISTED));
        assert_eq!(who(&tables, "198.18.0.1"), unlisted);
        assert_eq!(index.problems().len(), 1);
    }
    // Namespaces that fit individually share the table.
    let many = (0..6).map(|n| large(&format!("evil-{n}"), "large", 250, 250));
    let mut index = index([small()]);
    let mut compiler = Compiler::new(Scope::Node("n1".into()));
    for service in many {
        index.apply(object(service));
        let tables = followed(&mut index, &mut compiler);
        assert!(tables.services.len() <= all);
        assert_eq!(ports(&tables, "203.0.113.1"), ["6/80"]);
    }
    assert_eq!(index.problems().len(), 6);
    for n in 0..6 {
        index.delete(&ObjectKey::new(
            Kind::Service,
            &format!("evil-{n}"),
            "large",
        ));
        followed(&mut index, &mut compiler);
    }
    assert_eq!(
        (index.problems().len(), compiler.tables().services.len()),
        (0, 2)
    );
}
