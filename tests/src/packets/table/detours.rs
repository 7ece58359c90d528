//! Ways past a hook, and ways on from the destination that was judged.

use std::net::IpAddr;

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{ExtensionHeader, RouterMessage, Unseen};

use super::flag::{ACK, SYN};
use super::places::tcp;
use super::{Table, V4, V6};
use crate::packets::Frame;
use crate::packets::frame::Extension;
use crate::packets::step::{from_pod, to_pod};

/// IPv4 options (RFC 791, 3.1; RFC 2113).
const NOTHING: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];

pub(super) fn rows(t: &mut Table) {
    unseen(t);
    source_routes(t);
    segments(t);
    routers(t);
}

fn unseen(t: &mut Table) {
    for pod in ["callee", "caller", "plain", "cut"] {
        t.both(
            &format!("what no hook saw come in doesn't reach {pod}"),
            |f, port| {
                let call = tcp(f, "stranger", pod, port, 8080);
                vec![
                    to_pod(pod, &call).unseen().drops(Unseen),
                    to_pod(pod, &call.flags(ACK)).unseen().drops(Unseen),
                ]
            },
        );
    }
    t.both(
        "a reply that no hook saw belongs to no connection",
        |f, port| {
            let call = tcp(f, "callee", "stranger", port, 443);
            vec![
                from_pod("callee", &call),
                to_pod("callee", &call.reply().flags(SYN | ACK))
                    .unseen()
                    .drops(Unseen),
                to_pod("callee", &call.reply().flags(SYN | ACK)),
            ]
        },
    );
    let question = Frame::arp(
        1,
        crate::packets::fixture::GATEWAY_MAC,
        V4.of("node"),
        V4.of("plain"),
    );
    t.row(
        "ARP that no hook saw doesn't reach a pod, and the node's own does",
        vec![
            to_pod("plain", &question)
                .unseen()
                .drops(Unseen)
                .counted_as(Protocol::Other),
            to_pod("plain", &question).unproven(),
        ],
    );
    t.both(
        "a piece that shows neither device nor socket was forwarded",
        |f, port| {
            let call = tcp(f, "node", "plain", port, 8080);
            let piece = call.with(|frame| match f.v4 {
                true => frame.fragment = 0x2000,
                false => frame.extensions = vec![Extension::fragment(0, true, port)],
            });
            vec![
                to_pod("plain", &piece).unproven().drops(Unseen),
                to_pod("plain", &call).unproven(),
            ]
        },
    );
}

/// From the caller to the callee, which allows the call.
fn with_options(port: u16, options: &[u8]) -> Frame {
    tcp(V4, "caller", "callee", port, 8080).with(|f| f.options = options.to_vec())
}

fn source_routes(t: &mut Table) {
    // To the stranger, by way of the callee.
    let onward = [10, 9, 9, 9];
    for (name, kind) in [("loose", LOOSE_ROUTE), ("strict", STRICT_ROUTE)] {
        let route = [&[kind, 7, 4][..], &onward].concat();
        let cases = [
            ("", [&route[..], &[0]].concat()),
            (" behind nothing", [&[NOTHING], &route[..]].concat()),
            (
                " behind a router alert",
                [&ROUTER_ALERT[..], &route, &[0]].concat(),
            ),
        ];
        for (place, options) in cases {
            let frame = with_options(t.port(), &options);
            t.row(
                format!("a {name} source route{place} leads on from the destination"),
                vec![
                    from_pod("caller", &frame)
                        .drops(ExtensionHeader)
                        .counted_as(Protocol::Tcp),
                    to_pod("callee", &frame)
                        .drops(ExtensionHeader)
                        .counted_as(Protocol::Tcp),
                ],
            );
        }
    }
    let record = [&[RECORD_ROUTE, 7, 4][..], &[0; 5]].concat();
    for (name, options) in [
        ("a router alert", ROUTER_ALERT.to_vec()),
        ("a recorded route", record),
        ("nothing", vec![NOTHING; 40]),
        // What is behind the end is no option.
        ("their end", vec![0, LOOSE_ROUTE, 3, 4]),
    ] {
        let frame = with_options(t.port(), &options);
        t.row(
            format!("options of {name} are walked"),
            vec![from_pod("caller", &frame), to_pod("callee", &frame)],
        );
    }
    for (name, options) in [
        ("of length 1", [RECORD_ROUTE, 1, 0, 0]),
        ("of length 0", [RECORD_ROUTE, 0, 0, 0]),
    ] {
        let frame = with_options(t.port(), &options);
        t.row(
            format!("an option {name} can't be walked"),
            vec![
                from_pod("caller", &frame)
                    .drops(ExtensionHeader)
                    .counted_as(Protocol::Tcp),
            ],
        );
    }
}

fn segments(t: &mut Table) {
    // Type 2 (mobility), 4 (segment routing) and 0, which is deprecated (RFC 5095).
    for kind in [0, 2, 4] {
        let frame = tcp(V6, "caller", "callee", t.port(), 8080).with(|f| {
            let mut body = vec![2, kind, 1, 0, 0, 0, 0];
            body.resize(7 + 2 * 8, 0);
            f.extensions = vec![Extension(43, body)];
        });
        t.row(
            format!("a routing header of type {kind} with a segment left leads on"),
            vec![
                from_pod("caller", &frame)
                    .drops(ExtensionHeader)
                    .counted_as(Protocol::Other),
                to_pod("callee", &frame)
                    .drops(ExtensionHeader)
                    .counted_as(Protocol::Other),
            ],
        );
    }
}

fn routers(t: &mut Table) {
    let (own, node) = (V4.of("plain"), V4.of("node"));
    for (name, kind) in [("redirect", 5), ("router advertisement", 9)] {
        let frame = Frame::icmp(own, node, [kind, 0], &[0; 28]);
        t.row(
            format!("an ICMP {name} of a pod's"),
            vec![from_pod("plain", &frame).drops(RouterMessage)],
        );
    }
    let igmp = |kind: u8| {
        Frame::ip(
            own,
            IpAddr::from([224, 0, 0, 1]),
            2,
            vec![kind, 0, 0, 0, 0, 0, 0, 0],
        )
        .with(|f| {
            f.destination_mac = [1, 0, 0x5e, 0, 0, 1];
            f.options = ROUTER_ALERT.to_vec();
            f.hops = 1;
        })
    };
    t.row(
        "an IGMP query of a pod's, and its report",
        vec![
            from_pod("plain", &igmp(0x11))
                .drops(RouterMessage)
                .counted_as(Protocol::Other),
            from_pod("plain", &igmp(0x16)),
        ],
    );
}
