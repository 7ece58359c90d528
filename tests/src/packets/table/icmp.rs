//! Echoes, and errors about live connections and about none.

use ringfence_ebpf::abi::Protocol::Icmp;
use ringfence_ebpf::abi::Reason::{Malformed, Policy};

use super::flag::SYN;
use super::{Family, Table, V4, V6};
use crate::packets::Frame;
use crate::packets::step::{Step, from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    echoes(t);
    echoes_of_others(t);
    timestamps(t);
    live_errors(t);
    stray_errors(t);
    reporters(t);
    smuggled_errors(t);
    spoilt_errors(t);
    wrong_family(t);
}

fn echo(f: Family, from: &str, to: &str, request: bool, id: u16) -> Frame {
    Frame::echo(f.of(from), f.of(to), request, id)
}

fn echoes(t: &mut Table) {
    t.both("a rule without ports admits an echo request", |f, id| {
        let request = echo(f, "trusted", "callee", true, id);
        let reply = echo(f, "callee", "trusted", false, id);
        vec![to_pod("callee", &request), from_pod("callee", &reply)]
    });
    t.both(
        "a rule with ports doesn't admit an echo request",
        |f, id| vec![to_pod("callee", &echo(f, "friend", "callee", true, id)).drops(Policy)],
    );
    t.both("a label doesn't let a caller ping", |f, id| {
        vec![from_pod("caller", &echo(f, "caller", "callee", true, id)).drops(Policy)]
    });
    t.both(
        "a closed pod's ping is answered, and only that one",
        |f, id| {
            vec![
                from_pod("callee", &echo(f, "callee", "stranger", true, id)),
                to_pod("callee", &echo(f, "stranger", "callee", false, id)),
                to_pod("callee", &echo(f, "stranger", "callee", false, id ^ 0x8000)).drops(Policy),
                to_pod("callee", &echo(f, "router", "callee", false, id)).drops(Policy),
                to_pod("callee", &echo(f, "stranger", "callee", true, id)).drops(Policy),
            ]
        },
    );
}

fn echoes_of_others(t: &mut Table) {
    t.both(
        "a pod without policy pings a closed one in vain",
        |f, id| {
            let request = echo(f, "plain", "callee", true, id);
            vec![
                from_pod("plain", &request),
                to_pod("callee", &request).drops(Policy),
            ]
        },
    );
    t.both(
        "a pod without policy pings another, whose egress is closed, and is answered",
        |f, id| {
            vec![
                to_pod("caller", &echo(f, "stranger", "caller", true, id)),
                from_pod("caller", &echo(f, "caller", "stranger", false, id)),
            ]
        },
    );
    t.both(
        "an echo reply that nobody asked for is denied at both closed sides",
        |f, id| {
            vec![
                to_pod("callee", &echo(f, "stranger", "callee", false, id)).drops(Policy),
                from_pod("caller", &echo(f, "caller", "stranger", false, id)).drops(Policy),
            ]
        },
    );
    t.both("an allowed stray echo reply opens no way back", |f, id| {
        vec![
            from_pod("callee", &echo(f, "callee", "stranger", false, id)),
            to_pod("callee", &echo(f, "stranger", "callee", true, id)).drops(Policy),
            to_pod("callee", &echo(f, "stranger", "callee", false, id)).drops(Policy),
        ]
    });
}

fn timestamps(t: &mut Table) {
    let [high, low] = t.port().to_be_bytes();
    let rest = [&[high, low, 0, 1][..], &[0; 12]].concat();
    let ours = Frame::icmp(V4.of("callee"), V4.of("stranger"), [13, 0], &rest);
    let theirs = Frame::icmp(V4.of("stranger"), V4.of("callee"), [14, 0], &rest);
    t.row(
        "a timestamp request is answered like an echo (IPv4)",
        [from_pod("callee", &ours), to_pod("callee", &theirs)],
    );
    let redirect = Frame::icmp(V4.of("router"), V4.of("callee"), [5, 1], &rest);
    t.row(
        "a redirect is no error about a connection (IPv4)",
        [to_pod("callee", &redirect).drops(Policy)],
    );
}

/// Type and code of the errors that a family knows.
pub(super) fn errors(f: Family) -> [(&'static str, [u8; 2]); 4] {
    if f.v4 {
        [
            ("unreachable", [3, 1]),
            ("fragmentation-needed", [3, 4]),
            ("time-exceeded", [11, 0]),
            ("parameter-problem", [12, 0]),
        ]
    } else {
        [
            ("unreachable", [1, 0]),
            ("packet-too-big", [2, 0]),
            ("time-exceeded", [3, 0]),
            ("parameter-problem", [4, 0]),
        ]
    }
}

/// Packets that a closed callee sends, of every protocol that has connections.
fn sent(f: Family, port: u16) -> [(&'static str, Frame); 4] {
    let (own, peer) = (f.of("callee"), f.of("stranger"));
    [
        ("TCP", Frame::tcp((own, port), (peer, 443), SYN)),
        ("UDP", Frame::udp((own, port), (peer, 53))),
        ("SCTP", Frame::sctp((own, port), (peer, 7000))),
        ("echo", Frame::echo(own, peer, true, port)),
    ]
}

fn live_errors(t: &mut Table) {
    for i in 0..4 {
        let name = sent(V4, 0)[i].0;
        for e in 0..4 {
            let (error_v4, error_v6) = (errors(V4)[e].0, errors(V6)[e].0);
            t.both(
                &format!(
                    "{error_v4} or {error_v6} about a live {name} connection reaches a closed pod"
                ),
                |f, port| {
                    let about = &sent(f, port)[i].1;
                    let error = Frame::error(f.of("router"), f.of("callee"), errors(f)[e].1, about);
                    vec![
                        to_pod("callee", &error).drops(Policy),
                        from_pod("callee", about),
                        to_pod("callee", &error),
                    ]
                },
            );
        }
    }
    t.both(
        "an error about a live connection leaves a pod whose egress is closed",
        |f, port| {
            let about = Frame::udp((f.of("stranger"), port), (f.of("caller"), 53));
            let error = Frame::error(f.of("caller"), f.of("stranger"), errors(f)[0].1, &about);
            vec![
                from_pod("caller", &error).drops(Policy),
                to_pod("caller", &about),
                from_pod("caller", &error),
            ]
        },
    );
}

fn stray_errors(t: &mut Table) {
    t.both(
        "an error about another port than the connection's is denied",
        |f, port| {
            let about = Frame::udp((f.of("callee"), port), (f.of("stranger"), 53));
            let other = about.with(|p| p.payload[1] ^= 0x80);
            let error = Frame::error(f.of("router"), f.of("callee"), errors(f)[1].1, &other);
            vec![
                from_pod("callee", &about),
                to_pod("callee", &error).drops(Policy),
            ]
        },
    );
    t.both(
        "an error that quotes a packet to the pod, not from it, is denied",
        |f, port| {
            let about = Frame::udp((f.of("callee"), port), (f.of("stranger"), 53));
            let error = Frame::error(
                f.of("router"),
                f.of("callee"),
                errors(f)[1].1,
                &about.reply(),
            );
            vec![
                from_pod("callee", &about),
                to_pod("callee", &error).drops(Policy),
            ]
        },
    );
}

/// Who can have seen the packet that an error quotes.
fn reporters(t: &mut Table) {
    t.both(
        "a pod that has no part in a connection reports no error about it",
        |f, port| {
            let about = Frame::udp((f.of("callee"), port), (f.of("stranger"), 53));
            let error = |from| Frame::error(f.of(from), f.of("callee"), errors(f)[1].1, &about);
            vec![
                from_pod("callee", &about),
                to_pod("callee", &error("plain"))
                    .by_pod("plain", false)
                    .drops(Policy),
                // Of another node, or with its tag lost.
                to_pod("callee", &error("far")).drops(Policy),
                to_pod("callee", &error("plain")).drops(Policy),
                to_pod("callee", &error("router")),
                to_pod("callee", &error("stranger")),
                to_pod("callee", &error("node")).by_node(),
            ]
        },
    );
    t.both(
        "between two pods of this node only they and the node report errors",
        |f, port| {
            let about = Frame::udp((f.of("callee"), port), (f.of("plain"), 53));
            let error = |from| Frame::error(f.of(from), f.of("callee"), errors(f)[0].1, &about);
            vec![
                from_pod("callee", &about),
                to_pod("callee", &error("router")).drops(Policy),
                to_pod("callee", &error("node")).drops(Policy),
                to_pod("callee", &error("node")).by_node(),
                to_pod("callee", &error("plain")).by_pod("plain", false),
            ]
        },
    );
}

fn smuggled_errors(t: &mut Table) {
    t.both(
        "an error about another pod's connection is denied",
        |f, port| {
            let about = Frame::udp((f.of("plain"), port), (f.of("stranger"), 53));
            let error = Frame::error(f.of("router"), f.of("callee"), errors(f)[1].1, &about);
            vec![
                from_pod("plain", &about),
                to_pod("callee", &error).drops(Policy),
            ]
        },
    );
    t.both(
        "an error to another than the sender that it quotes is denied",
        |f, port| {
            let about = Frame::udp((f.of("stranger"), port), (f.of("caller"), 53));
            let error = Frame::error(f.of("caller"), f.of("router"), errors(f)[0].1, &about);
            vec![
                to_pod("caller", &about),
                from_pod("caller", &error).drops(Policy),
            ]
        },
    );
    t.both("an error opens no connection", |f, port| {
        let about = Frame::udp((f.of("callee"), port), (f.of("stranger"), 53));
        let error = Frame::error(f.of("router"), f.of("callee"), errors(f)[1].1, &about);
        vec![
            from_pod("callee", &about),
            to_pod("callee", &error),
            to_pod(
                "callee",
                &Frame::echo(f.of("router"), f.of("callee"), true, port),
            )
            .drops(Policy),
        ]
    });
}

/// An error about a live connection, spoilt in what it quotes.
fn spoilt(t: &mut Table, name: &str, spoil: impl Fn(Family, &mut Frame)) {
    t.both(name, |f, port| {
        let about = Frame::tcp((f.of("callee"), port), (f.of("stranger"), 443), SYN);
        let error = Frame::error(f.of("router"), f.of("callee"), errors(f)[1].1, &about);
        let spoilt = error.with(|e| spoil(f, e));
        let step: Step = to_pod("callee", &spoilt).drops(Policy);
        vec![from_pod("callee", &about), step]
    });
}

fn spoilt_errors(t: &mut Table) {
    // The quoted packet begins eight bytes into the message.
    spoilt(t, "an error that quotes half a header is denied", |_, e| {
        e.payload.truncate(8 + 12);
    });
    spoilt(t, "an error that quotes no ports is denied", |f, e| {
        e.payload.truncate(8 + if f.v4 { 20 } else { 40 });
    });
    spoilt(
        t,
        "an error that quotes another IP version is denied",
        |_, e| e.payload[8] ^= 0x20,
    );
    spoilt(t, "an error that quotes nothing is denied", |_, e| {
        e.payload.truncate(8);
    });
    t.both(
        "an error that is cut short in its own header is malformed",
        |f, port| {
            let about = Frame::udp((f.of("callee"), port), (f.of("stranger"), 53));
            let error = Frame::error(f.of("router"), f.of("callee"), errors(f)[1].1, &about);
            vec![
                from_pod("callee", &about),
                to_pod("callee", &error.with(|e| e.payload.truncate(7))).drops(Malformed),
            ]
        },
    );
    let port = t.port();
    let about = Frame::udp((V4.of("callee"), port), (V4.of("stranger"), 53));
    let later = about.with(|p| p.fragment = 0x2003);
    let error = Frame::error(V4.of("router"), V4.of("callee"), [3, 1], &later);
    t.row(
        "an error that quotes a later fragment is denied, for it quotes no ports (IPv4)",
        [
            from_pod("callee", &about),
            to_pod("callee", &error).drops(Policy),
        ],
    );
}

fn wrong_family(t: &mut Table) {
    for (f, protocol, name) in [(V4, 58, "ICMPv6 in IPv4"), (V6, 1, "ICMP in IPv6")] {
        let frame = Frame::ip(
            f.of("trusted"),
            f.of("callee"),
            protocol,
            vec![128, 0, 0, 0, 0, 1, 0, 1],
        );
        t.row(
            format!("{name} is malformed, even for whom everything is admitted"),
            [to_pod("callee", &frame).drops(Malformed).counted_as(Icmp)],
        );
        let out = Frame::ip(f.of("caller"), f.of("callee"), protocol, vec![136; 32]);
        t.row(
            format!("{name} doesn't leave a pod whose egress is closed"),
            [from_pod("caller", &out).drops(Malformed).counted_as(Icmp)],
        );
    }
}
