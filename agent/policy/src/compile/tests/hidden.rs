//! Services whose addresses would fill the table of addresses.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ringfence_ebpf::abi::{Addr, Identity, capacity};
use serde_json::{Value, json};

use crate::model::{Kind, ObjectKey};
use crate::{
    compile::Compiler,
    config::Config,
    diff::Change,
    index::{Index, Scope},
    tables::Tables,
    testing::{index, object, pod},
};

/// The share of one namespace.
const MOST: u32 = capacity::ADDRESSES / 16;

/// Returns a Service with one port at its own address and at `others` further ones from `first` on.
fn service(name: &str, own: &str, (first, others): (&str, u32)) -> Value {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    let first = u32::from(first.parse::<Ipv4Addr>().expect(first));
    let others = (first..first + others).map(|ip| Ipv4Addr::from(ip).to_string());
    json!({
        "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "clusterIP": own, "externalIPs": others.collect::<Vec<_>>(),
            "ports": [{"port": 80}],
        },
    })
}

fn who<'t>(tables: &'t Tables, ip: &str) -> Option<(&'t str, u32)> {
    let ip: std::net::IpAddr = ip.parse().expect(ip);
    let identity = tables.identities.get(&Addr::from(ip));
    identity.map(|(name, flags)| (&**name, *flags))
}

/// Updates the compiler and checks the result against a compilation from scratch.
fn apply_changes(compiler: &mut Compiler, index: &mut Index) -> Change {
    let before = compiler.tables().clone();
    let change = compiler.update(index);
    let scratch = index.compile(&Scope::Everything);
    assert_eq!(compiler.tables(), &scratch);
    let whole = Change::between(&before, &scratch);
    assert_eq!((&whole.raised, &whole.keys), (&change.raised, &change.keys));
    change
}

fn messages(index: &Index) -> Vec<String> {
    let all = index.problems().into_iter();
    all.map(|one| format!("{}: {}", one.object, one.message))
        .collect()
}

#[test]
fn a_namespace_that_fills_the_table_hides_its_own_services_and_those_alone() {
    let small = service("b/small", "10.96.0.1", ("203.0.113.1", 1));
    let bystander = pod("b/bystander", "10.0.0.1", json!({}));
    let mut index = index([small, bystander]);
    let mut compiler = Compiler::new(Scope::Everything);
    apply_changes(&mut compiler, &mut index);
    // One Service that uses all of its namespace's share, and one that finds no room.
    index.apply(object(service(
        "evil/filler",
        "10.96.1.1",
        ("198.18.0.0", MOST - 1),
    )));
    let change = apply_changes(&mut compiler, &mut index);
    assert!(!compiler.tables().hides_services);
    assert_eq!(messages(&index), [""; 0]);
    assert_eq!(change.keys.addresses.len(), MOST as usize);
    index.apply(object(service(
        "evil/late",
        "10.96.1.2",
        ("198.51.100.1", 1),
    )));
    let change = apply_changes(&mut compiler, &mut index);
    let tables = compiler.tables();
    assert!(tables.hides_services);
    // Its addresses cost nothing, and connections with every peer are checked again.
    assert_eq!((change.raised.len(), change.keys.addresses.len()), (1, 0));
    for ip in ["10.96.1.2", "198.51.100.1"] {
        assert_eq!(who(tables, ip), None);
    }
    for (ip, name) in [("203.0.113.1", "b/small"), ("198.18.0.0", "evil/filler")] {
        assert_eq!(who(tables, ip), Some((name, Identity::IS_SERVICE)));
    }
    assert_eq!(tables.services.len(), MOST as usize + 2);
    let [message] = &messages(&index)[..] else {
        panic!("{:?}", messages(&index));
    };
    assert!(message.starts_with("Service evil/late: its namespace's share"));
    // Freed space is reused.
    index.delete(&ObjectKey::new(Kind::Service, "evil", "filler"));
    let change = apply_changes(&mut compiler, &mut index);
    let tables = compiler.tables();
    assert!(!tables.hides_services);
    assert_eq!(change.raised.len(), 1);
    let late = Some(("evil/late", Identity::IS_SERVICE));
    assert_eq!(who(tables, "198.51.100.1"), late);
    assert_eq!(messages(&index), [""; 0]);
}

#[test]
fn a_pods_address_stays_the_pods_whoever_hides_behind_it() {
    let mut index = index([pod("b/server", "10.0.0.1", json!({}))]);
    let mut compiler = Compiler::new(Scope::Everything);
    apply_changes(&mut compiler, &mut index);
    // Starting at 10.0.0.0.
    let huge = service("evil/huge", "10.96.1.1", ("10.0.0.0", MOST + 1));
    index.apply(object(huge));
    let change = apply_changes(&mut compiler, &mut index);
    let tables = compiler.tables();
    // All addresses count as claimed then, so entries don't have to record it.
    assert!(tables.hides_services);
    assert_eq!(who(tables, "10.0.0.1"), Some(("b/server", 0)));
    assert_eq!(tables.identities.len(), 1);
    assert_eq!((change.raised.len(), change.keys.addresses.len()), (1, 0));
    index.apply(object(service("b/small", "10.0.0.3", ("10.0.0.4", 1))));
    apply_changes(&mut compiler, &mut index);
    let shown = Some(("b/small", Identity::IS_SERVICE));
    assert_eq!(who(compiler.tables(), "10.0.0.3"), shown);
    index.delete(&ObjectKey::new(Kind::Service, "evil", "huge"));
    let change = apply_changes(&mut compiler, &mut index);
    assert!(!compiler.tables().hides_services);
    assert_eq!(change.raised.len(), 1);
}

#[test]
fn memory_for_services_has_a_bound_and_one_without_room_is_hidden_until_it_comes_anew() {
    let bound = 100_000;
    let room = Index::new(Config::default()).with_room_for_services(bound);
    let mut index = room;
    let mut compiler = Compiler::new(Scope::Everything);
    let small = service("b/small", "10.96.0.1", ("203.0.113.1", 1));
    index.apply(object(small.clone()));
    // Ten thousand addresses would take half a megabyte.
    let late = |others| object(service("evil/late", "10.96.1.2", ("198.18.0.0", others)));
    index.apply(late(10_000));
    apply_changes(&mut compiler, &mut index);
    let tables = compiler.tables();
    assert!(tables.hides_services);
    assert_eq!(who(tables, "10.96.1.2"), None);
    assert_eq!(
        who(tables, "10.96.0.1"),
        Some(("b/small", Identity::IS_SERVICE))
    );
    let [message] = &messages(&index)[..] else {
        panic!("{:?}", messages(&index));
    };
    assert!(message.starts_with("Service evil/late: this agent's memory has no room"));
    // A known form is removed when a form without room replaces it.
    index.apply(late(100));
    apply_changes(&mut compiler, &mut index);
    assert!(!compiler.tables().hides_services);
    assert_eq!(messages(&index), [""; 0]);
    assert!(who(compiler.tables(), "198.18.0.99").is_some());
    index.apply(late(10_000));
    apply_changes(&mut compiler, &mut index);
    assert!(compiler.tables().hides_services);
    assert_eq!(who(compiler.tables(), "198.18.0.99"), None);
    // A list without the refused Service removes it like a known one.
    index.reset(&Kind::Service.into(), vec![object(small)]);
    apply_changes(&mut compiler, &mut index);
    assert!(!compiler.tables().hides_services);
    assert_eq!(messages(&index), [""; 0]);
}

#[test]
fn nobody_elses_services_and_slices_lose_room_to_one_that_asks_for_all() {
    let mut index = Index::new(Config::default()).with_room_for_services(100_000);
    for n in 0..500 {
        let own = format!("10.97.{}.{}", n / 250, n % 250 + 1);
        index.apply(object(service(&format!("evil/s{n}"), &own, ("0.0.0.0", 0))));
        index.apply(object(slice(&format!("evil/e{n}"), 10)));
    }
    index.apply(object(service("b/small", "10.96.0.1", ("203.0.113.1", 1))));
    index.apply(object(slice("b/small", 10)));
    let told = messages(&index);
    assert!(told.len() > 500, "{}", told.len());
    assert!(told.iter().all(|one| one.contains(" evil/")), "{told:?}");
    assert_eq!(
        index.clone().slices.len() + index.services.len(),
        1002 - told.len()
    );
}

/// Returns an EndpointSlice with this many endpoints.
fn slice(name: &str, endpoints: u32) -> Value {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    let endpoints = (0..endpoints).map(|n| json!({"addresses": [format!("10.1.0.{n}")]}));
    json!({
        "kind": "EndpointSlice", "metadata": {"namespace": namespace, "name": name},
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

#[test]
fn many_namespaces_share_what_there_is_and_nobody_gets_more_than_the_kernel_has() {
    let small = service("b/small", "10.96.0.1", ("203.0.113.1", 1));
    let mut index = index([small]);
    let mut compiler = Compiler::new(Scope::Everything);
    for n in 0..6_u32 {
        let (own, first) = (format!("10.97.{n}.1"), format!("20.{n}.0.0"));
        let large = service(&format!("evil-{n}/large"), &own, (&first, MOST - 1));
        index.apply(object(large));
        compiler.update(&mut index);
        let tables = compiler.tables();
        assert!(tables.identities.len() <= capacity::ADDRESSES as usize / 4);
        assert!(who(tables, "203.0.113.1").is_some(), "{n}");
        assert_eq!(tables.hides_services, n > 2);
    }
    assert_eq!(compiler.tables(), &index.compile(&Scope::Everything));
}

#[test]
fn a_hundred_thousand_addresses_of_one_service_hold_nobody_up() {
    let mut index = index([]);
    let mut compiler = Compiler::new(Scope::Everything);
    let huge = |first: &str| object(service("evil/huge", "10.96.1.1", (first, 100_000)));
    let both = [huge("20.0.0.0"), huge("20.0.0.1")];
    let start = Instant::now();
    for service in both {
        index.apply(service);
        compiler.update(&mut index);
    }
    // Comparing pairs would take minutes.
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(compiler.tables().identities.is_empty());
}
