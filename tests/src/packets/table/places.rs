//! The node, the pod itself, quarantine, tagged senders, tunnels, interfaces of nobody's.

use std::net::IpAddr;

use ringfence_ebpf::abi::Reason::{
    Loopback, Malformed, Policy, Quarantine, Tunnel, UnknownEndpoint,
};

use super::flag::{ACK, SYN};
use super::{Family, Table, V4};
use crate::packets::Frame;
use crate::packets::fixture::{TUNNEL_PORTS, find};
use crate::packets::step::{from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    from_node(t);
    to_node(t);
    itself(t);
    quarantine(t);
    quarantined_answers(t);
    tagged(t);
    tunnels(t);
    loopback(t);
    unmanaged(t);
}

pub(super) fn tcp(f: Family, from: &str, to: &str, port: u16, service: u16) -> Frame {
    Frame::tcp((f.of(from), port), (f.of(to), service), SYN)
}

fn from_node(t: &mut Table) {
    for pod in ["callee", "caller", "staged", "cut", "plain"] {
        t.both(
            &format!("the node's probe reaches {pod} and is answered"),
            |f, port| {
                let syn = tcp(f, "node", pod, port, 9999);
                vec![
                    to_pod(pod, &syn).by_node(),
                    from_pod(pod, &syn.reply().flags(SYN | ACK)),
                    to_pod(pod, &syn.flags(ACK)).by_node(),
                ]
            },
        );
        t.both(&format!("the node pings {pod}"), |f, id| {
            vec![
                to_pod(pod, &Frame::echo(f.of("node"), f.of(pod), true, id)).by_node(),
                from_pod(pod, &Frame::echo(f.of(pod), f.of("node"), false, id)),
            ]
        });
    }
    t.both(
        "the node speaks for others, as when it refuses on behalf of a Service",
        |f, port| vec![to_pod("callee", &tcp(f, "stranger", "callee", port, 80)).by_node()],
    );
    t.both(
        "what the node sends is accounted for like anything else",
        |f, port| {
            let syn = tcp(f, "node", "callee", port, 80).with(|f| f.payload[12] = 0);
            vec![to_pod("callee", &syn).by_node().drops(Malformed)]
        },
    );
    for node in ["node", "bridge", "other-node"] {
        t.both(
            &format!("a forwarded packet from {node}'s address isn't the node's own"),
            |f, port| vec![to_pod("callee", &tcp(f, node, "callee", port, 80)).drops(Policy)],
        );
    }
}

fn to_node(t: &mut Table) {
    for pod in ["caller", "callee", "cut", "staged", "plain"] {
        for node in ["node", "bridge"] {
            t.both(
                &format!("{pod} reaches the node at {node}'s address"),
                |f, port| {
                    let syn = tcp(f, pod, node, port, 10250);
                    vec![
                        from_pod(pod, &syn),
                        to_pod(pod, &syn.reply().flags(SYN | ACK)).by_node(),
                    ]
                },
            );
        }
    }
    t.both("another node isn't this node", |f, port| {
        vec![from_pod("caller", &tcp(f, "caller", "other-node", port, 10250)).drops(Policy)]
    });
}

fn itself(t: &mut Table) {
    for pod in ["caller", "callee", "cut"] {
        t.both(&format!("{pod} reaches itself"), |f, port| {
            let own = tcp(f, pod, pod, port, 80);
            vec![from_pod(pod, &own)]
        });
        t.both(
            &format!("{pod} reaches itself through its own Service"),
            |f, port| {
                // The node masquerades what would come from the pod to itself.
                let syn = tcp(f, "bridge", pod, port, 80);
                vec![to_pod(pod, &syn).by_pod(pod, true)]
            },
        );
    }
}

fn quarantine(t: &mut Table) {
    t.both("a pod in quarantine calls nobody", |f, port| {
        vec![
            from_pod("cut", &tcp(f, "cut", "plain", port, 80)).drops(Quarantine),
            from_pod("cut", &tcp(f, "cut", "stranger", port, 80)).drops(Quarantine),
            from_pod("cut", &tcp(f, "cut", "other-node", port, 80)).drops(Quarantine),
        ]
    });
    t.both("nobody calls a pod in quarantine", |f, port| {
        let syn = tcp(f, "plain", "cut", port, 80);
        vec![
            from_pod("plain", &syn),
            to_pod("cut", &syn).drops(Quarantine),
        ]
    });
}

fn quarantined_answers(t: &mut Table) {
    t.both("a pod in quarantine answers nobody", |f, port| {
        let syn = tcp(f, "stranger", "cut", port, 80);
        vec![
            to_pod("cut", &syn).drops(Quarantine),
            from_pod("cut", &syn.reply().flags(SYN | ACK)).drops(Quarantine),
            from_pod(
                "cut",
                &Frame::echo(f.of("cut"), f.of("stranger"), false, port),
            )
            .drops(Quarantine),
        ]
    });
    t.both(
        "nothing else reaches a pod in quarantine, errors neither",
        |f, port| {
            let about = Frame::udp((f.of("cut"), port), (f.of("node"), 53));
            let head = if f.v4 { [3, 4] } else { [2, 0] };
            let error = Frame::error(f.of("router"), f.of("cut"), head, &about);
            vec![
                from_pod("cut", &about),
                to_pod("cut", &error).drops(Quarantine),
                to_pod(
                    "cut",
                    &Frame::udp((f.of("stranger"), 53), (f.of("cut"), port)),
                )
                .drops(Quarantine),
            ]
        },
    );
    t.both(
        "what can't be accounted for doesn't reach a pod in quarantine",
        |f, port| {
            let syn = tcp(f, "stranger", "cut", port, 80).with(|f| f.payload[12] = 0);
            vec![to_pod("cut", &syn).drops(Malformed)]
        },
    );
}

/// Tags: who sent it, whatever address it shows.
fn tagged(t: &mut Table) {
    t.both(
        "a caller masqueraded as its node is judged as the caller",
        |f, port| {
            vec![
                to_pod("callee", &tcp(f, "node", "callee", port, 8080)).by_pod("caller", false),
                to_pod("callee", &tcp(f, "node", "callee", port, 8081))
                    .by_pod("caller", false)
                    .drops(Policy),
            ]
        },
    );
    t.both(
        "another pod masqueraded as its node is judged as that pod",
        |f, port| {
            vec![
                to_pod("callee", &tcp(f, "node", "callee", port, 8080))
                    .by_pod("plain", true)
                    .drops(Policy),
            ]
        },
    );
}

/// What a node would unpack comes out with any source, so no pod may send it,
/// isolated or not.
fn tunnels(t: &mut Table) {
    for node in ["node", "other-node", "bridge", "stranger"] {
        // The first four are compiled in.
        for udp in [4789, 8472, 4790, 6081].into_iter().chain(TUNNEL_PORTS) {
            t.both(
                &format!("a pod without policy sends nothing to UDP port {udp} of {node}"),
                |f, port| {
                    let datagram = Frame::udp((f.of("plain"), port), (f.of(node), udp));
                    vec![from_pod("plain", &datagram).drops(Tunnel)]
                },
            );
        }
        for protocol in [4, 41, 47, 97, 103, 115, 137, 143] {
            t.both(
                &format!("a pod without policy sends no protocol {protocol} to {node}"),
                |f, _| {
                    let (from, to) = (f.of("plain"), f.of(node));
                    vec![
                        from_pod("plain", &Frame::ip(from, to, protocol, vec![0; 24]))
                            .drops(Tunnel),
                    ]
                },
            );
        }
    }
    t.both(
        "an answer to the node enters no tunnel either",
        |f, port| {
            let asked = Frame::udp((f.of("node"), 4789), (f.of("plain"), port));
            vec![
                to_pod("plain", &asked).by_node(),
                from_pod("plain", &asked.reply()).drops(Tunnel),
            ]
        },
    );
    t.both("the port of a tunnel is any port at a pod", |f, port| {
        let to = |udp| Frame::udp((f.of("plain"), port), (f.of("staged"), udp));
        let ports = [4789].into_iter().chain(TUNNEL_PORTS);
        ports.map(|udp| from_pod("plain", &to(udp))).collect()
    });
    t.both(
        "the ports beside a tunnel's, and TCP to it, are no tunnel's",
        |f, port| {
            let (from, node) = (f.of("plain"), f.of("node"));
            let beside = TUNNEL_PORTS.map(|udp| Frame::udp((from, port), (node, udp + 1)));
            let tcp = TUNNEL_PORTS.map(|to| Frame::tcp((from, port), (node, to), SYN));
            let all = beside.iter().chain(&tcp);
            all.map(|frame| from_pod("plain", frame)).collect()
        },
    );
    t.both(
        "quarantine and a tunnel of the node's own: nothing gets in",
        |f, port| {
            let ports = TUNNEL_PORTS.into_iter();
            let datagrams = ports.map(|udp| Frame::udp((f.of("cut"), port), (f.of("node"), udp)));
            datagrams
                .map(|datagram| from_pod("cut", &datagram).drops(Tunnel))
                .collect()
        },
    );
}

/// A node with `route_localnet` delivers it to itself, and forwards its ports.
fn loopback(t: &mut Table) {
    t.both("no pod reaches the node's loopback", |f, port| {
        let texts = if f.v4 {
            ["127.0.0.1", "127.255.0.9"]
        } else {
            ["::1"; 2]
        };
        let all = texts.map(|text| text.parse::<IpAddr>().expect("an address"));
        let syns = all.map(|to| Frame::tcp((f.of("plain"), port), (to, 80), SYN));
        syns.map(|syn| from_pod("plain", &syn).drops(Loopback))
            .into()
    });
}

fn unmanaged(t: &mut Table) {
    t.both(
        "an interface that nobody manages is closed both ways",
        |f, port| {
            let syn = tcp(f, "plain", "far", port, 80);
            vec![
                from_pod("plain", &syn).unmanaged().drops(UnknownEndpoint),
                to_pod("plain", &syn.reply())
                    .unmanaged()
                    .drops(UnknownEndpoint),
            ]
        },
    );
    let arp = Frame::arp(1, find("plain").mac, V4.of("plain"), V4.of("bridge"));
    t.row(
        "an interface that nobody manages is closed to ARP",
        [from_pod("plain", &arp).unmanaged().drops(UnknownEndpoint)],
    );
}
