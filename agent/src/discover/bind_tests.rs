use std::time::{Duration, SystemTime};

use ringfence_policy::index::PodKey;

use super::*;
use crate::runtime::FoundBy;
use ringfence_netlink::LinkLayerType;

/// Returns a device of the node that leads into a namespace.
fn veth(index: u32, netns: i32) -> Link {
    Link {
        index,
        name: format!("veth{index}"),
        mac: Some([2, 0, 0, 0, 0, 0]),
        peer: Some(2),
        peer_netns: Some(netns),
        kind: "veth".into(),
        medium: LinkLayerType::Ether,
        tunnels: Vec::new(),
    }
}

fn wanted(name: &str, uid: &str) -> Sought {
    Sought {
        ends: false,
        pod: PodKey {
            namespace: "shop".into(),
            name: name.into(),
            uid: uid.into(),
        },
        uid: uid.into(),
        addresses: Vec::new(),
    }
}

/// Returns the sandbox of a pod, in namespace `id` by device `veth{index}`.
fn sandbox(name: &str, uid: &str, id: i32, index: u32) -> Located {
    Located {
        sandbox: Sandbox {
            id: format!("c-{uid}"),
            namespace: "shop".into(),
            name: name.into(),
            uid: Some(uid.into()),
            netns: Some(format!("/run/netns/{id}").into()),
            devices: vec![format!("veth{index}")],
            others: Vec::new(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            addresses: Vec::new(),
            recorded: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(index)),
            by: FoundBy::CniCache,
            open: false,
        },
        place: NamespaceState::There(Some(id)),
    }
}

fn bind(wanted: &[Sought], host: &[Link], sandboxes: &[Located]) -> Discovery {
    bind_knowing(wanted, host, sandboxes, &[], &Exempt::default())
}

fn bind_knowing(
    wanted: &[Sought],
    host: &[Link],
    sandboxes: &[Located],
    known: &[Interface],
    exempt: &Exempt,
) -> Discovery {
    let ids = sandboxes.iter().filter_map(|one| match one.place {
        NamespaceState::There(id) => id,
        _ => None,
    });
    let namespaces: BTreeSet<i32> = ids.chain([90, 91]).collect();
    let seen = Seen {
        host,
        sandboxes,
        namespaces: &namespaces,
        partial: false,
        known,
        mac: &|_| Some([2, 0, 0, 0, 0, 7]),
    };
    seen.bind(wanted, exempt)
}

fn bound(discovery: &Discovery) -> Vec<(&str, u32)> {
    let all = discovery.interfaces.iter();
    all.map(|one| (&*one.pod.uid, one.ifindex)).collect()
}

fn strange(discovery: &Discovery) -> Vec<(u32, bool)> {
    let all = discovery.others.strangers.iter();
    all.map(|one| (one.ifindex, one.closed)).collect()
}

#[test]
fn a_pods_device_is_the_one_on_record_with_the_mac_on_record() {
    let found = bind(
        &[wanted("a", "u1"), wanted("b", "u2")],
        &[veth(7, 1), veth(8, 2)],
        &[sandbox("a", "u1", 1, 7), sandbox("b", "u2", 2, 8)],
    );
    assert_eq!(bound(&found), [("u1", 7), ("u2", 8)]);
    assert_eq!(found.interfaces[0].mac, [2, 0, 0, 0, 0, 9]);
    assert_eq!(found.interfaces[0].by, FoundBy::CniCache);
    assert_eq!((found.unguarded, found.others.strangers), (vec![], vec![]));
}

#[test]
fn without_a_mac_on_record_the_other_end_is_asked_once() {
    let mut bare = sandbox("a", "u1", 1, 7);
    bare.sandbox.mac = None;
    let found = bind(
        &[wanted("a", "u1")],
        &[veth(7, 1)],
        std::slice::from_ref(&bare),
    );
    assert_eq!(found.interfaces[0].mac, [2, 0, 0, 0, 0, 7]);
    let known = Interface {
        mac: [2, 0, 0, 0, 0, 5],
        ..found.interfaces[0].clone()
    };
    let again = bind_knowing(
        &[wanted("a", "u1")],
        &[veth(7, 1)],
        &[bare],
        &[known],
        &Exempt::default(),
    );
    assert_eq!(again.interfaces[0].mac, [2, 0, 0, 0, 0, 5]);
}

#[test]
fn a_pod_that_takes_its_end_elsewhere_keeps_its_device() {
    // It was moved into a namespace that the pod created itself, which no runtime names.
    let found = bind(
        &[wanted("a", "u1")],
        &[veth(7, 44)],
        &[sandbox("a", "u1", 1, 7)],
    );
    assert_eq!(bound(&found), [("u1", 7)]);
    // No device of the node leads into its sandbox any longer.
    let mut alone = sandbox("a", "u1", 1, 7);
    alone.place = NamespaceState::There(None);
    let found = bind(&[wanted("a", "u1")], &[veth(7, 44)], &[alone]);
    assert_eq!(bound(&found), [("u1", 7)]);
}

#[test]
fn a_device_name_that_comes_again_is_the_newer_sandboxs() {
    // Calico names devices by pod: the previous sandbox has the same device on record.
    let old = sandbox("a", "u0", 1, 7);
    let new = sandbox("a", "u1", 2, 7);
    let found = bind(&[wanted("a", "u1")], &[veth(7, 2)], &[old.clone(), new]);
    assert_eq!(bound(&found), [("u1", 7)]);
    // Until the new sandbox is on record the device belongs to no pod, least of all to the old
    // one.
    let mut elsewhere = veth(7, 2);
    elsewhere.peer_netns = Some(90);
    let found = bind(&[wanted("a", "u0")], &[elsewhere], &[old]);
    assert_eq!(bound(&found), []);
    assert_eq!(strange(&found), [(7, true)]);
}

#[test]
fn a_sandbox_whose_namespace_is_gone_has_no_device_whatever_is_on_record() {
    let mut gone = sandbox("a", "u1", 1, 7);
    gone.place = NamespaceState::Gone;
    let found = bind(&[wanted("a", "u1")], &[veth(7, 44)], &[gone]);
    assert_eq!(bound(&found), []);
    assert!(found.unguarded[0].reason.contains("gone"), "{found:?}");
}

#[test]
fn of_two_sandboxes_of_one_pod_the_newer_counts() {
    let both = [sandbox("a", "u1", 1, 7), sandbox("a", "u1", 2, 8)];
    let found = bind(&[wanted("a", "u1")], &[veth(7, 1), veth(8, 2)], &both);
    assert_eq!(bound(&found), [("u1", 8)]);
    assert_eq!(strange(&found), [(7, true)]);
}

#[test]
fn a_record_is_only_of_the_pod_with_its_uid() {
    let found = bind(
        &[wanted("a", "u2")],
        &[veth(7, 1)],
        &[sandbox("a", "u1", 1, 7)],
    );
    assert_eq!(bound(&found), []);
    assert_eq!(strange(&found), [(7, true)]);
    assert_eq!(found.others.strangers[0].pod.as_deref(), Some("shop/a"));
    let mut old = sandbox("a", "u1", 1, 7);
    old.sandbox.uid = None;
    let found = bind(&[wanted("a", "u2")], &[veth(7, 1)], &[old]);
    assert_eq!(bound(&found), [("u2", 7)]);
}

#[test]
fn where_no_device_is_on_record_the_only_one_that_leads_there_is_taken() {
    let mut bare = sandbox("a", "u1", 1, 7);
    bare.sandbox.devices.clear();
    let pods = [wanted("a", "u1")];
    let found = bind(
        &pods,
        &[veth(7, 1), veth(8, 2)],
        std::slice::from_ref(&bare),
    );
    assert_eq!(bound(&found), [("u1", 7)]);
    let found = bind(
        &pods,
        &[veth(7, 1), veth(8, 1)],
        std::slice::from_ref(&bare),
    );
    assert_eq!(bound(&found), []);
    assert!(
        found.unguarded[0].reason.contains("veth7, veth8"),
        "{found:?}"
    );
    // veth8 is on record as an additional interface, so only veth7 can be the first.
    bare.sandbox.others = vec!["veth8".into()];
    let found = bind(&pods, &[veth(7, 1), veth(8, 1)], &[bare]);
    assert_eq!(bound(&found), [("u1", 7)]);
    assert_eq!(strange(&found), []);
}

#[test]
fn a_device_into_a_sandbox_without_a_record_is_a_strangers() {
    let found = bind(&[], &[veth(7, 90), veth(8, 17)], &[]);
    // 17 is no namespace that a runtime names: a container of something else.
    assert_eq!(strange(&found), [(7, true)]);
    assert_eq!(found.others.strangers[0].pod, None);
}

#[test]
fn exempt_namespaces_pass_as_far_as_they_are_on_record() {
    let exempt = |all, namespace: &str| Exempt {
        all,
        namespaces: vec![namespace.to_owned()],
    };
    let (host, records) = ([veth(7, 1), veth(8, 90)], [sandbox("a", "u1", 1, 7)]);
    let ask = |exempt| strange(&bind_knowing(&[], &host, &records, &[], &exempt));
    assert_eq!(ask(exempt(false, "shop")), [(7, false), (8, true)]);
    assert_eq!(ask(exempt(false, "other")), [(7, true), (8, true)]);
    assert_eq!(ask(exempt(true, "")), [(7, false), (8, false)]);
}

#[test]
fn while_the_runtime_is_silent_bindings_stay_and_nobody_gets_a_new_one() {
    let records = [sandbox("a", "u1", 1, 7)];
    let host = [veth(7, 1), veth(8, 90)];
    let known = bind(&[wanted("a", "u1")], &host, &records).interfaces;
    let pods = [wanted("a", "u1"), wanted("b", "u2")];
    let found = bind_knowing(&pods, &host, &[], &known, &Exempt::default());
    assert_eq!(bound(&found), [("u1", 7)]);
    assert_eq!(found.unguarded[0].pod.uid, "u2");
    assert_eq!(strange(&found), [(8, true)]);
    // The device was replaced by another one with the same index.
    let mut other = veth(7, 1);
    other.name = "veth70".into();
    let found = bind_knowing(&pods, &[other], &[], &known, &Exempt::default());
    assert_eq!(bound(&found), []);
}

#[test]
fn no_device_is_two_pods_and_a_record_stands_above_what_was_known() {
    let mut stale = bind(
        &[wanted("z", "u9")],
        &[veth(7, 1)],
        &[sandbox("z", "u9", 1, 7)],
    )
    .interfaces;
    stale[0].by = FoundBy::Pin;
    stale[0].pod = wanted("a", "u1").pod;
    let found = bind_knowing(
        &[wanted("a", "u1"), wanted("b", "u2")],
        &[veth(7, 1)],
        &[sandbox("b", "u2", 1, 7)],
        &stale,
        &Exempt::default(),
    );
    assert_eq!(bound(&found), [("u2", 7)]);
    assert!(
        found.unguarded[0].reason.contains("another pod's"),
        "{found:?}"
    );
}

#[test]
fn a_device_that_is_no_veth_is_nobodys() {
    let mut odd = veth(7, 1);
    odd.kind = "ipvlan".into();
    let found = bind(&[wanted("a", "u1")], &[odd], &[sandbox("a", "u1", 1, 7)]);
    assert_eq!((bound(&found), strange(&found)), (vec![], vec![]));
}

#[test]
fn while_a_namespace_cant_be_looked_at_devices_that_may_lead_there_are_left_as_they_are() {
    let mut here = veth(9, 0);
    here.peer_netns = None;
    let host = [veth(7, 1), veth(8, 55), here];
    let namespaces = BTreeSet::from([1]);
    for (partial, judged) in [(false, vec![7, 8, 9]), (true, vec![7, 9])] {
        let seen = Seen {
            host: &host,
            sandboxes: &[],
            namespaces: &namespaces,
            partial,
            known: &[],
            mac: &|_| None,
        };
        let found = seen.bind(&[], &Exempt::default()).others.judged;
        assert_eq!(found, Some(judged.into_iter().collect()), "{partial}");
    }
}
