use super::*;
use ringfence_netlink::LinkLayerType;

fn pod(name: &str) -> PodKey {
    PodKey {
        namespace: "ns".into(),
        name: name.into(),
        uid: String::new(),
    }
}

fn wanted(name: &str, addresses: &[&str]) -> Sought {
    let addresses = addresses
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    Sought {
        ends: false,
        pod: pod(name),
        uid: String::new(),
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
        medium: LinkLayerType::Ether,
        tunnels: Vec::new(),
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

fn devices(discovery: &Discovery) -> Vec<(&str, u32)> {
    let all = discovery.interfaces.iter();
    all.map(|one| (&*one.pod.name, one.ifindex)).collect()
}

/// Victim `v` on device 7, impostor `x` on the newer device 8.
fn rivals() -> ([Sought; 2], [Link; 2]) {
    let pods = [
        wanted("v", &["10.0.0.1", "fd00::1"]),
        wanted("x", &["10.0.0.2"]),
    ];
    (pods, [veth(7, 2, 0), veth(8, 2, 1)])
}

#[test]
fn a_pod_that_adds_anothers_addresses_takes_nothing_from_it() {
    let (pods, host) = rivals();
    let all = [
        namespace(0, 7, &["10.0.0.1", "fd00::1"]),
        namespace(1, 8, &["10.0.0.2", "10.0.0.1", "fd00::1"]),
    ];
    let first_sight = matching(&pods, &[], &host, &all);
    assert_eq!(devices(&first_sight), [("v", 7), ("x", 8)]);
    let later = matching(&pods, &first_sight.interfaces, &host, &all);
    assert_eq!(later, first_sight);
}

#[test]
fn a_pod_that_swaps_its_address_for_anothers_stays_what_it_was() {
    let (pods, host) = rivals();
    let honest = [
        namespace(0, 7, &["10.0.0.1", "fd00::1"]),
        namespace(1, 8, &["10.0.0.2"]),
    ];
    let before = matching(&pods, &[], &host, &honest);
    let swapped = [honest[0].clone(), namespace(1, 8, &["10.0.0.1", "fd00::1"])];
    assert_eq!(matching(&pods, &before.interfaces, &host, &swapped), before);
    // The same while the victim's namespace is out of sight.
    let hidden = matching(&pods, &before.interfaces, &host, &swapped[1..]);
    assert_eq!(hidden, before);
}

#[test]
fn a_pod_whose_address_is_only_on_anothers_device_is_told_so_and_gets_none() {
    let (pods, host) = rivals();
    let namespaces = [namespace(1, 8, &["10.0.0.2", "10.0.0.1"])];
    let known = matching(&pods[1..], &[], &host, &namespaces).interfaces;
    let discovery = matching(&pods, &known, &host, &namespaces);
    assert_eq!(devices(&discovery), [("x", 8)]);
    assert_eq!(discovery.unguarded[0].pod, pod("v"));
    assert_eq!(
        discovery.unguarded[0].reason,
        "its address is on veth8, which is the device of ns/x"
    );
}

#[test]
fn no_device_is_ever_given_to_two_pods() {
    let (mut pods, host) = rivals();
    // Two Pod objects that show one address.
    pods[1].addresses = pods[0].addresses.clone();
    let namespaces = [namespace(0, 7, &["10.0.0.1", "fd00::1"])];
    let discovery = matching(&pods, &[], &host, &namespaces);
    assert_eq!(devices(&discovery), [("v", 7)]);
    assert!(discovery.unguarded[0].reason.ends_with("ns/v"));
}

#[test]
fn a_pod_that_got_a_new_device_moves_to_it_once_the_old_one_is_seen_without_it() {
    let (pods, host) = rivals();
    let pods = &pods[..1];
    let before = matching(pods, &[], &host, &[namespace(0, 7, &["10.0.0.1"])]);
    let both = [
        namespace(0, 7, &["10.0.0.1"]),
        namespace(1, 8, &["10.0.0.1"]),
    ];
    let torn_down = [namespace(0, 7, &[]), both[1].clone()];
    let stays = matching(pods, &before.interfaces, &host, &both);
    assert_eq!(devices(&stays), [("v", 7)]);
    let moved = matching(pods, &before.interfaces, &host, &torn_down);
    assert_eq!(devices(&moved), [("v", 8)]);
    let gone = matching(pods, &before.interfaces, &host[1..], &both);
    assert_eq!(devices(&gone), [("v", 8)]);
}

#[test]
fn the_mac_of_the_first_sight_stays_and_another_one_is_told() {
    let pods = [wanted("a", &["10.0.0.1"])];
    let host = [veth(7, 2, 0)];
    let mut inside = [namespace(0, 7, &["10.0.0.1"])];
    let before = matching(&pods, &[], &host, &inside);
    assert_eq!(before.warnings, [""; 0]);
    inside[0].links[0].mac = Some([2, 0, 0, 0, 0, 9]);
    let forged = matching(&pods, &before.interfaces, &host, &inside);
    assert_eq!(forged.interfaces, before.interfaces);
    let [warning] = &forged.warnings[..] else {
        panic!("{forged:?}")
    };
    assert!(
        warning.contains("was 02:00:00:00:00:02 and is now 02:00:00:00:00:09"),
        "{warning}"
    );
}

#[test]
fn a_renamed_device_stays_its_pods_and_one_that_only_has_the_index_does_not() {
    let pods = [wanted("a", &["10.0.0.1"])];
    let inside = [namespace(0, 7, &["10.0.0.1"])];
    let before = matching(&pods, &[], &[veth(7, 2, 0)], &inside);
    let renamed = [Link {
        name: "cali7".into(),
        ..veth(7, 2, 0)
    }];
    for namespaces in [&inside[..], &[]] {
        let after = matching(&pods, &before.interfaces, &renamed, namespaces);
        assert_eq!(devices(&after), [("a", 7)]);
        assert_eq!(after.interfaces[0].name, "cali7");
    }
    let mut other = namespace(0, 7, &["10.0.0.9"]);
    other.links[0].mac = Some([2, 0, 0, 0, 0, 9]);
    let after = matching(&pods, &before.interfaces, &renamed, &[other]);
    assert_eq!(devices(&after), []);
}
