//! Calls of Services, and what their backends see.

use ringfence_ebpf::abi::Reason::{Policy, Quarantine, UnresolvedService};

use super::Table;
use super::flag::{ACK, SYN};
use super::places::tcp;
use crate::packets::Frame;
use crate::packets::fixture::find;
use crate::packets::step::{from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    behind_services(t);
    to_services(t);
}

fn behind_services(t: &mut Table) {
    t.both(
        "a caller's egress is decided behind a Service",
        |f, port| {
            vec![
                to_pod("callee", &tcp(f, "caller", "callee", port, 8080)).by_pod("caller", true),
                to_pod("plain", &tcp(f, "caller", "plain", port, 8080))
                    .by_pod("caller", true)
                    .decided_by_sender()
                    .drops(Policy),
                to_pod("callee", &tcp(f, "caller", "callee", port, 8081))
                    .by_pod("caller", true)
                    .decided_by_sender()
                    .drops(Policy),
            ]
        },
    );
    t.both(
        "a pod in quarantine reaches nobody through a node's port",
        |f, port| {
            let syn = tcp(f, "node", "plain", port, 80);
            vec![
                to_pod("plain", &syn)
                    .by_pod("cut", true)
                    .decided_by_sender()
                    .drops(Quarantine),
            ]
        },
    );
}

fn to_services(t: &mut Table) {
    t.both(
        "a call of a Service passes its caller's interface",
        |f, port| {
            vec![
                from_pod("caller", &tcp(f, "caller", "front", port, 80)),
                to_pod(
                    "caller",
                    &tcp(f, "caller", "front", port, 80).reply().flags(SYN | ACK),
                ),
            ]
        },
    );
    other_ports(t);
    t.both("a pod in quarantine calls no Service", |f, port| {
        vec![from_pod("cut", &tcp(f, "cut", "front", port, 80)).drops(Quarantine)]
    });
    t.both(
        "a call of a Service that nobody translated goes nowhere",
        |f, port| {
            let syn =
                tcp(f, "caller", "front", port, 80).with(|f| f.destination_mac = find("plain").mac);
            vec![
                to_pod("plain", &syn)
                    .by_pod("caller", true)
                    .decided_by_sender()
                    .drops(UnresolvedService),
            ]
        },
    );
}

/// A Service has its own protocols and ports at its addresses, and no others.
fn other_ports(t: &mut Table) {
    for (at, own) in [("front", 80), ("shown", 90)] {
        t.both(
            &format!("on a port that no Service has at {at}, that is nobody's address"),
            |f, port| {
                let udp = Frame::udp((f.of("caller"), port), (f.of(at), own));
                let echo = Frame::echo(f.of("caller"), f.of(at), true, port);
                let other = tcp(f, "caller", at, port, own + 1);
                [other, udp, echo]
                    .map(|frame| from_pod("caller", &frame).drops(Policy).nameless())
                    .into()
            },
        );
        t.both(
            &format!("the Service's port at {at} is the Service's"),
            |f, port| vec![from_pod("caller", &tcp(f, "caller", at, port, own))],
        );
    }
    t.both(
        "a pod's address stays the pod's on the ports of a Service that shows it",
        |f, port| {
            let denied = tcp(f, "caller", "plain", port, 90);
            let open = tcp(f, "staged", "plain", port, 90);
            vec![
                from_pod("caller", &denied).drops(Policy),
                from_pod("staged", &open),
                to_pod("plain", &open).by_pod("staged", true),
            ]
        },
    );
    t.both(
        "the port of a tunnel is any port at a pod whose address a Service shows",
        |f, port| {
            let datagram = Frame::udp((f.of("staged"), port), (f.of("plain"), 4789));
            vec![
                from_pod("staged", &datagram),
                to_pod("plain", &datagram).by_pod("staged", true),
            ]
        },
    );
    t.both(
        "a node's address is a Service's on the Service's ports alone",
        |f, port| {
            vec![
                from_pod("caller", &tcp(f, "caller", "other-node", port, 90)),
                from_pod("caller", &tcp(f, "caller", "other-node", port, 91)).drops(Policy),
            ]
        },
    );
    t.both(
        "a call that nobody translated is the node's where its address is",
        |f, port| {
            let syn = tcp(f, "caller", "other-node", port, 90)
                .with(|f| f.destination_mac = find("plain").mac);
            vec![
                to_pod("plain", &syn)
                    .by_pod("caller", true)
                    .decided_by_sender()
                    .drops(Policy),
            ]
        },
    );
}
