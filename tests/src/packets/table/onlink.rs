//! Addresses that name nobody: groups, link-local ones, and what a bridge delivers by
//! MAC alone. Whoever gets the packet is who it is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_ebpf::abi::Reason::{Policy, Quarantine};

use super::flag::{ACK, SYN};
use super::{Family, Table};
use crate::packets::Frame;
use crate::packets::fixture::find;
use crate::packets::step::{Step, from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    link_local(t);
    groups(t);
    by_mac(t);
    unproven(t);
}

/// A call between the link-local addresses of two pods.
fn direct(from: &str, to: &str, port: u16) -> Frame {
    let (from, to) = (find(from), find(to));
    Frame::tcp((from.link_local(), 40_000), (to.link_local(), port), SYN).with(|f| {
        f.source_mac = from.mac;
        f.destination_mac = to.mac;
    })
}

fn by_sender(step: Step, service: bool) -> Step {
    step.by_pod("caller", service).decided_by_sender()
}

fn link_local(t: &mut Table) {
    let call =
        |to: &str, port| direct("caller", to, port).with(|f| f.destination_mac = find(to).mac);
    let denied = from_pod("caller", &call("plain", 81)).drops(Policy);
    t.row(
        "a neighbour's link-local address stands for the neighbour, where it is sent and where it arrives",
        [
            Step {
                ends: ("bank/caller", "bank/plain"),
                ..denied
            },
            by_sender(to_pod("plain", &call("plain", 81)), true).drops(Policy),
        ],
    );
    let allowed = call("callee", 8080);
    t.row(
        "who may call a pod may call it by its link-local address, and is answered",
        [
            from_pod("caller", &allowed),
            to_pod("callee", &allowed).by_pod("caller", true),
            from_pod("callee", &allowed.reply().flags(SYN | ACK)),
            to_pod("caller", &allowed.reply().flags(SYN | ACK)).by_pod("callee", false),
        ],
    );
    let cut = direct("cut", "plain", 82);
    t.row(
        "a pod in quarantine calls no neighbour by its link-local address",
        [Step {
            ends: ("bank/cut", "bank/plain"),
            ..from_pod("cut", &cut).drops(Quarantine)
        }],
    );
}

/// A datagram to a group or to everybody on the link.
fn group(f: Family, from: &str, to: IpAddr, port: u16) -> Frame {
    let pod = find(from);
    let source = if f.v4 { f.of(from) } else { pod.link_local() };
    Frame::udp((source, port), (to, 5353)).with(|f| {
        f.source_mac = pod.mac;
        f.destination_mac = match to {
            IpAddr::V4(to) if !to.is_broadcast() => [0x01, 0, 0x5e, 0, 0, to.octets()[3]],
            IpAddr::V4(_) => [0xff; 6],
            IpAddr::V6(to) => {
                let [.., a, b, c, d] = to.octets();
                [0x33, 0x33, a, b, c, d]
            }
        };
    })
}

fn groups(t: &mut Table) {
    let all: [(Family, IpAddr); 4] = [
        (super::V4, Ipv4Addr::BROADCAST.into()),
        (super::V4, Ipv4Addr::new(224, 0, 0, 1).into()),
        (super::V4, Ipv4Addr::new(224, 0, 0, 251).into()),
        (super::V6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()),
    ];
    for (f, to) in all {
        let port = t.port();
        let call = group(f, "caller", to, port);
        t.row(
            format!("a closed pod calls nobody by {to}"),
            [from_pod("caller", &call).drops(Policy)],
        );
        t.row(
            format!("what a closed pod sent to {to} reaches none that it mustn't call"),
            [
                by_sender(to_pod("plain", &call), true).drops(Policy),
                by_sender(to_pod("plain", &call), false).drops(Policy),
            ],
        );
        let open = group(f, "plain", to, port);
        t.row(
            format!("a pod without policy reaches its like by {to}, and closed pods not"),
            [
                from_pod("plain", &open),
                to_pod("staged", &open)
                    .by_pod("plain", false)
                    .audits(Policy),
                to_pod("callee", &open).by_pod("plain", false).drops(Policy),
            ],
        );
    }
}

fn by_mac(t: &mut Table) {
    t.both(
        "an address that is allowed doesn't lead past policy to a neighbour's MAC",
        |f, port| {
            // `caller` may call `callee`; the frame goes to another pod's MAC.
            let call = Frame::tcp((f.of("caller"), port), (f.of("callee"), 8080), SYN)
                .with(|f| f.destination_mac = find("plain").mac);
            vec![
                from_pod("caller", &call),
                by_sender(to_pod("plain", &call), false).drops(Policy),
            ]
        },
    );
}

fn unproven(t: &mut Table) {
    t.both(
        "what shows neither device nor socket isn't the node's own",
        |f, port| {
            let call = Frame::tcp((f.of("stranger"), port), (f.of("callee"), 8080), SYN);
            let from_node = Frame::tcp((f.of("node"), port), (f.of("callee"), 8080), SYN);
            vec![
                to_pod("callee", &call).unproven().drops(Policy),
                to_pod("callee", &call.flags(ACK)).unproven().drops(Policy),
                to_pod("callee", &from_node).unproven().drops(Policy),
                to_pod("callee", &from_node).by_node(),
            ]
        },
    );
    t.both(
        "resets that the node makes for others end connections all the same",
        |f, port| {
            let call = Frame::tcp((f.of("callee"), port), (f.of("stranger"), 443), SYN);
            vec![
                from_pod("callee", &call),
                to_pod("callee", &call.reply().flags(4 | ACK)).unproven(),
            ]
        },
    );
}
