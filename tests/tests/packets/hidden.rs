//! The library while the tables have no room for the addresses of some Services.

use ringfence_ebpf::abi::{Control, Reason};
use ringfence_tests::oracle::check;
use ringfence_tests::packets::fixture::{self, address};
use ringfence_tests::packets::host::Host;
use ringfence_tests::packets::step::{from_pod, to_pod};
use ringfence_tests::packets::{Frame, Row, assert_no_fault, rows};
use serde_json::json;

use super::{ACK, SYN, assert_step, fault};

#[test]
fn every_row_of_the_table_holds_while_services_are_hidden() {
    let mut host = Host::default();
    host.control.flags = Control::HIDES_SERVICES;
    let mut faults = Vec::new();
    for Row { name, steps } in rows() {
        let found = steps.iter().find_map(|step| fault(&mut host, step));
        faults.extend(found.map(|fault| format!("{name}: {fault}")));
    }
    assert_no_fault(&faults);
}

/// Returns a host whose caller may call some outside addresses, on one port.
fn host(flags: u32) -> Host {
    let blocks = ["203.0.113.0/24", "2001:db8:9::/64"];
    let blocks = blocks.map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
    let mut objects = fixture::objects();
    objects.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": fixture::NAMESPACE, "name": "out"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"],
            "egress": [{"to": blocks, "ports": [{"port": 8443}]}],
        },
    }));
    let tables = check::compile(&objects, Some(fixture::NODE)).expect("valid objects");
    let mut host = Host::new(tables);
    host.control.flags = flags;
    host
}

#[test]
fn what_goes_to_any_address_is_decided_once_more_while_services_are_hidden() {
    for (flags, once_more) in [(0, false), (Control::HIDES_SERVICES, true)] {
        let mut host = host(flags);
        for v4 in [true, false] {
            let (own, outside) = (address("caller", v4), address("stranger", v4));
            let call = |port, flags| Frame::tcp((own, 40_000), (outside, port), flags);
            assert_step(&mut host, &from_pod("caller", &call(8443, SYN)));
            assert_eq!(host.service, once_more);
            let answer = call(8443, SYN).reply().flags(SYN | ACK);
            assert_step(&mut host, &to_pod("caller", &answer));
            // The same applies to all packets of the connection.
            assert_step(&mut host, &from_pod("caller", &call(8443, ACK)));
            assert_eq!(host.service, once_more);
            // Policy decides first.
            let denied = from_pod("caller", &call(8444, SYN)).drops(Reason::Policy);
            assert_step(&mut host, &denied);
            // A node may also forward packets to a pod's address.
            let pod = Frame::tcp((own, 40_000), (address("callee", v4), 8080), SYN);
            assert_step(&mut host, &from_pod("caller", &pod));
            assert_eq!(host.service, once_more);
        }
    }
}
