use super::*;

fn pod(name: &str) -> PodKey {
    PodKey {
        namespace: "ns".into(),
        name: name.into(),
        uid: String::new(),
    }
}

fn wanted(name: &str, addresses: &[&str]) -> Wanted {
    let addresses = addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    Wanted {
        pod: pod(name),
        addresses,
    }
}

fn veth(index: u32, peer: u32, peer_netns: i32) -> Link {
    Link {
        index,
        name: format!("veth{index}"),
        mac: Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]),
        peer: Some(peer),
        peer_netns: Some(peer_netns),
        kind: "veth".into(),
    }
}

/// A pod's namespace: `id` is what the node calls it; its device 2 leads to `peer`.
fn namespace(id: i32, peer: u32, addresses: &[&str]) -> Namespace {
    let address = |text: &&str| LinkAddress {
        link: 2,
        address: text.parse().unwrap(),
    };
    Namespace {
        path: format!("/run/netns/{id}").into(),
        id: Some(id),
        links: vec![Link {
            name: "eth0".into(),
            ..veth(2, peer, 0)
        }],
        addresses: addresses.iter().map(address).collect(),
    }
}

fn reason(discovery: &Discovery) -> &str {
    assert_eq!(discovery.interfaces, []);
    &discovery.unguarded[0].reason
}

#[test]
fn a_pod_is_found_by_either_address_with_the_mac_of_its_own_side() {
    let host = [veth(7, 2, 0), veth(8, 2, 1)];
    let namespaces = [
        namespace(0, 7, &["10.0.0.1"]),
        namespace(1, 8, &["10.0.0.2", "fd00::2"]),
    ];
    let pods = [wanted("a", &["10.0.0.1"]), wanted("b", &["fd00::2"])];
    let discovery = matching(&pods, &[], &host, &namespaces);
    assert_eq!(discovery.unguarded, []);
    let found: Vec<_> = discovery
        .interfaces
        .iter()
        .map(|i| (&*i.pod.name, i.ifindex))
        .collect();
    assert_eq!(found, [("a", 7), ("b", 8)]);
    assert_eq!(discovery.interfaces[0].name, "veth7");
    assert_eq!(discovery.interfaces[0].mac, [2, 0, 0, 0, 0, 2]);
}

#[test]
fn a_pod_without_a_namespace_or_an_address_is_reported_with_the_reason() {
    let none = matching(&[wanted("a", &["10.0.0.9"])], &[], &[], &[]);
    assert!(reason(&none).contains("10.0.0.9"), "{none:?}");
    let unborn = matching(&[wanted("a", &[])], &[], &[], &[]);
    assert!(reason(&unborn).contains("no address yet"), "{unborn:?}");
}

#[test]
fn a_macvlan_pod_has_no_host_side() {
    let mut inside = namespace(0, 7, &["10.0.0.1"]);
    inside.links[0].kind = "macvlan".into();
    let discovery = matching(
        &[wanted("a", &["10.0.0.1"])],
        &[],
        &[veth(7, 2, 0)],
        &[inside],
    );
    assert!(
        reason(&discovery).contains("macvlan, not veth"),
        "{discovery:?}"
    );
}

#[test]
fn a_device_that_agrees_by_chance_is_not_taken() {
    let inside = namespace(0, 7, &["10.0.0.1"]);
    let pods = [wanted("a", &["10.0.0.1"])];
    // Each differs from the right device in one thing.
    for wrong in [
        veth(7, 3, 0),
        veth(7, 2, 5),
        veth(9, 2, 0),
        Link {
            kind: "vlan".into(),
            ..veth(7, 2, 0)
        },
        Link {
            peer_netns: None,
            ..veth(7, 2, 0)
        },
    ] {
        let discovery = matching(
            &pods,
            &[],
            std::slice::from_ref(&wrong),
            std::slice::from_ref(&inside),
        );
        assert!(
            reason(&discovery).contains("isn't in the agent's namespace"),
            "{wrong:?}"
        );
    }
    let unknown = Namespace { id: None, ..inside };
    let link = Link {
        peer_netns: None,
        ..veth(7, 2, 0)
    };
    assert_eq!(matching(&pods, &[], &[link], &[unknown]).interfaces, []);
}

#[test]
fn of_two_namespaces_with_one_address_the_better_match_wins_and_then_the_newer() {
    let host = [veth(7, 2, 0), veth(8, 2, 1)];
    let old = namespace(0, 7, &["10.0.0.1"]);
    let pods = [wanted("a", &["10.0.0.1", "fd00::1"])];
    let newer = namespace(1, 8, &["10.0.0.1"]);
    assert_eq!(
        matching(&pods, &[], &host, &[old.clone(), newer.clone()]).interfaces[0].ifindex,
        8
    );
    let both = namespace(0, 7, &["10.0.0.1", "fd00::1"]);
    assert_eq!(
        matching(&pods, &[], &host, &[both, newer]).interfaces[0].ifindex,
        7
    );
}

#[test]
fn a_pod_whose_namespace_is_out_of_sight_keeps_its_device_while_that_exists() {
    let pods = [wanted("a", &["10.0.0.1"]), wanted("b", &["10.0.0.2"])];
    let host = [veth(7, 2, 0), veth(8, 2, 1)];
    let all = [
        namespace(0, 7, &["10.0.0.1"]),
        namespace(1, 8, &["10.0.0.2"]),
    ];
    let before = matching(&pods, &[], &host, &all);
    assert_eq!(before.interfaces.len(), 2);
    let hidden = matching(&pods, &before.interfaces, &host, &all[1..]);
    assert_eq!(hidden, before);
    let gone = matching(&pods, &before.interfaces, &host[1..], &all[1..]);
    assert_eq!(
        (gone.interfaces.len(), &*gone.unguarded[0].pod.name),
        (1, "a")
    );
}

#[test]
fn a_known_device_that_another_pod_has_now_is_not_kept() {
    let host = [veth(7, 2, 0)];
    let namespaces = [namespace(0, 7, &["10.0.0.2"])];
    let known = [Interface {
        pod: pod("a"),
        ifindex: 7,
        name: "veth7".into(),
        mac: [2, 0, 0, 0, 0, 2],
    }];
    let pods = [wanted("a", &["10.0.0.1"]), wanted("b", &["10.0.0.2"])];
    let discovery = matching(&pods, &known, &host, &namespaces);
    assert_eq!(
        (
            &*discovery.interfaces[0].pod.name,
            discovery.interfaces.len()
        ),
        ("b", 1)
    );
    assert_eq!(discovery.unguarded[0].pod, pod("a"));
}

#[test]
fn a_missing_folder_of_namespaces_means_no_pods_and_a_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pods = [wanted("a", &["10.0.0.1"])];
    let none = discover(&dir.path().join("gone"), &pods, &[]).unwrap();
    assert_eq!((none.interfaces.len(), none.unguarded.len()), (0, 1));
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(discover(&file, &pods, &[]).is_err());
    let odd = discover(dir.path(), &pods, &[]).unwrap();
    assert_eq!(odd.skipped.len(), 1);
}

#[test]
fn the_agents_own_namespace_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc/self/ns/net", dir.path().join("self")).unwrap();
    let discovery = discover(dir.path(), &[wanted("a", &["127.0.0.1"])], &[]).unwrap();
    assert_eq!(discovery.skipped, [""; 0]);
    assert_eq!(discovery.unguarded.len(), 1);
}
