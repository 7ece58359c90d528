//! Tests of [`super`].

use super::*;

fn pod(name: &str) -> PodKey {
    PodKey {
        name: name.to_owned(),
        ..PodKey::default()
    }
}

fn policy(last: u8) -> EndpointPolicy {
    EndpointPolicy {
        addresses: vec![IpAddr::from([10, 0, 0, last])],
        ..EndpointPolicy::default()
    }
}

fn pinned(ifindex: u32, last: u8) -> (u32, Occupant) {
    let endpoint = Endpoint {
        ifindex,
        id: ifindex,
        v4: Addr::v4([10, 0, 0, last]),
        ..Endpoint::default()
    };
    let occupant = Occupant {
        last: None,
        endpoint,
        pod: None,
        name: String::new(),
        by: FoundBy::Pin,
        carried: false,
    };
    (Endpoint::home_slot(ifindex), occupant)
}

#[test]
fn after_a_restart_a_pod_gets_no_device_by_claiming_its_address() {
    let endpoints = Endpoints {
        slots: [pinned(7, 1), pinned(8, 2)].into(),
    };
    let tables = Tables {
        endpoints: [(pod("victim"), policy(1)), (pod("thief"), policy(2))].into(),
        ..Tables::default()
    };
    let stolen = Interface {
        pod: pod("victim"),
        ifindex: 8,
        name: "veth8".to_owned(),
        mac: [0; 6],
        by: FoundBy::Claim,
    };
    let present = [(7, "veth7".to_owned()), (8, "veth8".to_owned())].into();
    let all = endpoints.with_retained(&tables, &[stolen], &present);
    let mut held: Vec<_> = all
        .iter()
        .map(|one| (one.ifindex, one.pod.clone()))
        .collect();
    held.sort();
    assert_eq!(held, [(7, pod("victim")), (8, pod("thief"))]);
}

#[test]
fn what_the_pod_runtime_says_stands_above_what_was_pinned() {
    let endpoints = Endpoints {
        slots: [pinned(7, 1), pinned(8, 2)].into(),
    };
    let tables = Tables {
        endpoints: [(pod("a"), policy(1)), (pod("b"), policy(2))].into(),
        ..Tables::default()
    };
    let recorded = Interface {
        pod: pod("a"),
        ifindex: 8,
        name: "veth8".to_owned(),
        mac: [0; 6],
        by: FoundBy::CniCache,
    };
    let present = [(7, "veth7".to_owned()), (8, "veth8".to_owned())].into();
    let all = endpoints.with_retained(&tables, &[recorded], &present);
    let held: Vec<_> = all
        .iter()
        .map(|one| (one.ifindex, one.pod.clone()))
        .collect();
    assert_eq!(held, [(8, pod("a"))]);
}
