//! Who may call whom on what, and the answers.

use ringfence_ebpf::abi::Reason::Policy;

use super::flag::SYN;
use super::{Family, Table};
use crate::packets::Frame;
use crate::packets::step::{from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    labels(t);
    udp(t);
    udp_answers(t);
    sctp(t);
    other_protocols(t);
    ports(t);
    audit(t);
}

fn tcp(family: Family, from: &str, to: &str, port: u16, service: u16) -> Frame {
    Frame::tcp((family.of(from), port), (family.of(to), service), SYN)
}

fn datagram(family: Family, from: &str, to: &str, port: u16, service: u16) -> Frame {
    Frame::udp((family.of(from), port), (family.of(to), service))
}

fn labels(t: &mut Table) {
    t.both(
        "a caller reaches the port that its label lists",
        |f, port| {
            let syn = tcp(f, "caller", "callee", port, 8080);
            vec![from_pod("caller", &syn), to_pod("callee", &syn)]
        },
    );
    t.both(
        "a caller is held back from a port that its label doesn't list",
        |f, port| vec![from_pod("caller", &tcp(f, "caller", "callee", port, 8081)).drops(Policy)],
    );
    t.both(
        "a label for TCP doesn't open the same port of UDP",
        |f, port| {
            let packet = Frame::udp((f.of("caller"), port), (f.of("callee"), 8080));
            vec![from_pod("caller", &packet).drops(Policy)]
        },
    );
    for to in ["plain", "far", "stranger", "other-node"] {
        t.both(
            &format!("a caller is held back from {to}, which its labels don't list"),
            |f, port| vec![from_pod("caller", &tcp(f, "caller", to, port, 8080)).drops(Policy)],
        );
    }
    for from in ["far", "stranger", "other-node", "friend"] {
        t.both(
            &format!("a callee doesn't admit {from} on its callers' port"),
            |f, port| vec![to_pod("callee", &tcp(f, from, "callee", port, 8080)).drops(Policy)],
        );
    }
    t.both(
        "a pod without policy sends, and the callee doesn't admit it",
        |f, port| {
            let syn = tcp(f, "plain", "callee", port, 8080);
            vec![
                from_pod("plain", &syn),
                to_pod("callee", &syn).drops(Policy),
            ]
        },
    );
    t.both(
        "a pod without policy reaches another pod's open side",
        |f, port| {
            let syn = tcp(f, "plain", "caller", port, 8080);
            vec![from_pod("plain", &syn), to_pod("caller", &syn)]
        },
    );
    t.both(
        "a pod without policy reaches the outside and is reached from there",
        |f, port| {
            let out = tcp(f, "plain", "stranger", port, 443);
            let back = tcp(f, "stranger", "plain", port, 444);
            vec![from_pod("plain", &out), to_pod("plain", &back)]
        },
    );
}

fn udp(t: &mut Table) {
    t.both(
        "a policy's CIDR may send to the port that it names, and the answer goes out",
        |f, port| {
            let query = datagram(f, "friend", "callee", port, 5353);
            vec![to_pod("callee", &query), from_pod("callee", &query.reply())]
        },
    );
    t.both("a policy's CIDR may not send to another port", |f, port| {
        vec![to_pod("callee", &datagram(f, "friend", "callee", port, 5354)).drops(Policy)]
    });
    t.both("what a CIDR excepts is not admitted", |f, port| {
        vec![to_pod("callee", &datagram(f, "excepted", "callee", port, 5353)).drops(Policy)]
    });
}

fn udp_answers(t: &mut Table) {
    t.both(
        "a closed pod's own query is answered, from that address and port only",
        |f, port| {
            let query = datagram(f, "callee", "stranger", port, 53);
            let other_port = datagram(f, "stranger", "callee", 54, port);
            let other_host = datagram(f, "router", "callee", 53, port);
            vec![
                to_pod("callee", &query.reply()).drops(Policy),
                from_pod("callee", &query),
                to_pod("callee", &query.reply()),
                to_pod("callee", &query.reply()),
                to_pod("callee", &other_port).drops(Policy),
                to_pod("callee", &other_host).drops(Policy),
            ]
        },
    );
    t.both(
        "a pod whose egress is closed answers whom it was asked by, nobody else",
        |f, port| {
            let query = datagram(f, "stranger", "caller", port, 53);
            let unasked = datagram(f, "caller", "stranger", 53, port + 1);
            vec![
                from_pod("caller", &query.reply()).drops(Policy),
                to_pod("caller", &query),
                from_pod("caller", &query.reply()),
                from_pod("caller", &unasked).drops(Policy),
            ]
        },
    );
}

fn sctp(t: &mut Table) {
    t.both(
        "SCTP is admitted where a policy says so, and answered",
        |f, port| {
            let init = Frame::sctp((f.of("friend"), port), (f.of("callee"), 7000));
            vec![to_pod("callee", &init), from_pod("callee", &init.reply())]
        },
    );
    t.both("SCTP to the callers' TCP port is denied", |f, port| {
        let init = Frame::sctp((f.of("caller"), port), (f.of("callee"), 8080));
        vec![
            to_pod("callee", &init).drops(Policy),
            from_pod("caller", &init).drops(Policy),
        ]
    });
    t.both(
        "a closed pod's own SCTP association is answered",
        |f, port| {
            let init = Frame::sctp((f.of("callee"), port), (f.of("stranger"), 7000));
            let answer = init.reply().with(|f| f.payload[12] = 2);
            vec![
                from_pod("callee", &init),
                to_pod("callee", &answer),
                to_pod("callee", &answer.with(|f| f.payload[1] ^= 1)).drops(Policy),
                // An INIT of the other side's is a call of its own.
                to_pod("callee", &init.reply()).drops(Policy),
            ]
        },
    );
}

fn other_protocols(t: &mut Table) {
    // 89 is OSPF, 254 is for experiments (RFC 3692): neither has ports.
    for protocol in [89, 254] {
        let packet = move |f: Family, from: &str, to: &str| {
            Frame::ip(f.of(from), f.of(to), protocol, vec![0; 16])
        };
        t.both(
            &format!("protocol {protocol} is admitted by a rule without ports"),
            |f, _| vec![to_pod("callee", &packet(f, "trusted", "callee"))],
        );
        t.both(
            &format!("protocol {protocol} is not admitted by a rule with ports"),
            |f, _| vec![to_pod("callee", &packet(f, "friend", "callee")).drops(Policy)],
        );
        t.both(
            &format!("protocol {protocol} is not among a caller's labels"),
            |f, _| vec![from_pod("caller", &packet(f, "caller", "callee")).drops(Policy)],
        );
        t.both(&format!("protocol {protocol} is answered"), |f, _| {
            let packet = packet(f, "callee", "stranger");
            vec![
                from_pod("callee", &packet),
                to_pod("callee", &packet.reply()),
            ]
        });
    }
}

fn ports(t: &mut Table) {
    let edges = [
        (999, false),
        (1000, true),
        (1023, true),
        (1024, true),
        (1100, true),
        (1101, false),
        (19999, false),
        (20000, true),
        (20223, true),
        (20224, true),
        (30000, true),
        (39935, true),
        (39936, true),
        (40001, true),
        (40002, false),
        (65533, false),
        (65534, true),
        (65535, true),
        (0, false),
    ];
    for (service, admitted) in edges {
        let verb = if admitted { "is" } else { "isn't" };
        t.both(
            &format!("port {service} {verb} in the ranges 1000-1100, 20000-40001 and 65534-65535"),
            |f, port| {
                let step = to_pod("callee", &tcp(f, "friend", "callee", port, service));
                vec![if admitted {
                    step.passes()
                } else {
                    step.drops(Policy)
                }]
            },
        );
    }
    for service in [0, 65535] {
        t.both(
            &format!("a rule without ports admits port {service}, from port {service}"),
            |f, _| {
                vec![to_pod(
                    "callee",
                    &tcp(f, "trusted", "callee", service, service),
                )]
            },
        );
    }
    t.both(
        "a label's port is held against the destination port, not the source port",
        |f, port| vec![from_pod("caller", &tcp(f, "caller", "callee", 8080, port)).drops(Policy)],
    );
}

fn audit(t: &mut Table) {
    t.both(
        "a staged pod audits a call once and lets its connection be",
        |f, port| {
            let syn = tcp(f, "stranger", "staged", port, 80);
            vec![
                to_pod("staged", &syn).audits(Policy),
                from_pod("staged", &syn.reply().flags(SYN | super::flag::ACK)),
                to_pod("staged", &syn.flags(super::flag::ACK)),
                to_pod("staged", &syn).audits(Policy),
            ]
        },
    );
    t.both(
        "a staged pod audits what another pod sends, and gets it",
        |f, port| {
            let packet = Frame::udp((f.of("plain"), port), (f.of("staged"), 53));
            vec![
                from_pod("plain", &packet),
                to_pod("staged", &packet).audits(Policy),
            ]
        },
    );
    t.both("a pod staged for ingress sends what it likes", |f, port| {
        vec![from_pod("staged", &tcp(f, "staged", "stranger", port, 80))]
    });
}
