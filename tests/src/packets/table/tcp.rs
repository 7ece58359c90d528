//! TCP by its flags: who opens a connection, and what belongs to one.

use ringfence_ebpf::abi::Reason::Policy;

use super::flag::{ACK, FIN, RST, SYN};
use super::{Family, Table};
use crate::packets::Frame;
use crate::packets::step::{Step, from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    connections(t);
    answered(t);
    strays(t);
    ends(t);
    crossing(t);
    again(t);
    neighbours(t);
}

/// What a closed callee calls, at a stranger's.
fn outgoing(f: Family, port: u16) -> Frame {
    Frame::tcp((f.of("callee"), port), (f.of("stranger"), 443), SYN)
}

/// The three packets by which the callee connects to the stranger.
fn handshake(f: Family, port: u16) -> Vec<Step> {
    let syn = outgoing(f, port);
    vec![
        from_pod("callee", &syn),
        to_pod("callee", &syn.reply().flags(SYN | ACK)),
        from_pod("callee", &syn.flags(ACK)),
    ]
}

fn connections(t: &mut Table) {
    t.both(
        "a closed pod's own connection lives from SYN to the last ACK",
        |f, port| {
            let (ours, theirs) = (outgoing(f, port), outgoing(f, port).reply());
            let mut steps = handshake(f, port);
            steps.extend([
                to_pod("callee", &theirs.flags(ACK)),
                to_pod("callee", &theirs.flags(FIN | ACK)),
                from_pod("callee", &ours.flags(FIN | ACK)),
                to_pod("callee", &theirs.flags(ACK)),
            ]);
            steps
        },
    );
    t.both("a refusal reaches the closed pod that called", |f, port| {
        let syn = outgoing(f, port);
        vec![
            from_pod("callee", &syn),
            to_pod("callee", &syn.reply().flags(RST | ACK)),
        ]
    });
}

fn answered(t: &mut Table) {
    t.both(
        "an admitted connection is answered by a pod whose egress is closed",
        |f, port| {
            let syn = Frame::tcp((f.of("stranger"), port), (f.of("caller"), 80), SYN);
            vec![
                to_pod("caller", &syn),
                from_pod("caller", &syn.reply().flags(SYN | ACK)),
                to_pod("caller", &syn.flags(ACK)),
                from_pod("caller", &syn.reply().flags(FIN | ACK)),
                from_pod("caller", &syn.reply().flags(RST)),
            ]
        },
    );
    t.both(
        "a retransmitted SYN is allowed as the first was",
        |f, port| {
            let syn = outgoing(f, port);
            vec![from_pod("callee", &syn), from_pod("callee", &syn)]
        },
    );
}

fn strays(t: &mut Table) {
    let kinds = [
        ("SYN-ACK", SYN | ACK),
        ("ACK", ACK),
        ("RST", RST),
        ("RST-ACK", RST | ACK),
        ("FIN", FIN),
        ("FIN-ACK", FIN | ACK),
        ("segment without flags", 0),
        ("segment with all flags", 0xff),
        ("SYN-FIN", SYN | FIN),
        ("SYN-RST", SYN | RST),
    ];
    for (name, flags) in kinds {
        t.both(
            &format!("a {name} of no connection is denied at a closed pod"),
            |f, port| {
                let stray = outgoing(f, port).reply().flags(flags);
                vec![to_pod("callee", &stray).drops(Policy)]
            },
        );
        t.both(
            &format!("a {name} of no connection is denied to a pod whose egress is closed"),
            |f, port| {
                let stray = Frame::tcp((f.of("caller"), 80), (f.of("stranger"), port), flags);
                vec![from_pod("caller", &stray).drops(Policy)]
            },
        );
    }
    t.both(
        "a connection in its allowed direction is picked up in the middle",
        |f, port| {
            let ack = Frame::tcp((f.of("caller"), port), (f.of("callee"), 8080), ACK);
            vec![from_pod("caller", &ack), to_pod("callee", &ack)]
        },
    );
}

/// What ends a connection that isn't there.
fn ends(t: &mut Table) {
    for (name, flags) in [("RST", RST), ("FIN", FIN), ("FIN-ACK", FIN | ACK)] {
        t.both(
            &format!("a stray {name} that is allowed passes and opens nothing"),
            |f, port| {
                let stray = Frame::tcp((f.of("stranger"), port), (f.of("caller"), 80), flags);
                vec![
                    to_pod("caller", &stray),
                    from_pod("caller", &stray.reply().flags(ACK)).drops(Policy),
                    from_pod("caller", &stray.reply().flags(RST)).drops(Policy),
                ]
            },
        );
    }
}

/// Both ends' SYNs cross on the way (RFC 9293, 3.5).
fn crossing(t: &mut Table) {
    t.both(
        "SYNs that cross make one connection where both may open it",
        |f, port| {
            let ours = Frame::tcp((f.of("plain"), port), (f.of("stranger"), port), SYN);
            let theirs = ours.reply();
            vec![
                from_pod("plain", &ours),
                to_pod("plain", &theirs.flags(SYN)),
                from_pod("plain", &ours.flags(SYN | ACK)),
                to_pod("plain", &theirs.flags(SYN | ACK)),
                from_pod("plain", &ours.flags(ACK)),
                to_pod("plain", &theirs.flags(FIN | ACK)),
            ]
        },
    );
    t.both(
        "of SYNs that cross only the allowed one opens a connection",
        |f, port| {
            let (ours, theirs) = (outgoing(f, port), outgoing(f, port).reply());
            vec![
                from_pod("callee", &ours),
                to_pod("callee", &theirs.flags(SYN)).drops(Policy),
                to_pod("callee", &theirs.flags(SYN | ACK)),
                from_pod("callee", &ours.flags(ACK)),
                to_pod("callee", &theirs.flags(ACK)),
            ]
        },
    );
}

fn again(t: &mut Table) {
    t.both(
        "a SYN from the far end of a live connection is decided anew",
        |f, port| {
            let theirs = outgoing(f, port).reply();
            let mut steps = handshake(f, port);
            steps.extend([
                to_pod("callee", &theirs).drops(Policy),
                // And takes nothing from the connection.
                to_pod("callee", &theirs.flags(ACK)),
            ]);
            steps
        },
    );
    t.both(
        "a reused port opens a new connection over the old one",
        |f, port| {
            let mut steps = handshake(f, port);
            steps.push(to_pod(
                "callee",
                &outgoing(f, port).reply().flags(FIN | ACK),
            ));
            steps.extend(handshake(f, port));
            steps
        },
    );
    t.both(
        "a SYN on an admitted connection's ports is decided anew for the pod that answers",
        |f, port| {
            let syn = Frame::tcp((f.of("stranger"), port), (f.of("caller"), 80), SYN);
            vec![
                to_pod("caller", &syn),
                from_pod("caller", &syn.reply().flags(SYN)).drops(Policy),
                from_pod("caller", &syn.reply().flags(SYN | ACK)),
            ]
        },
    );
}

fn neighbours(t: &mut Table) {
    t.both("a connection's neighbours by port are strays", |f, port| {
        let mut steps = handshake(f, port);
        let theirs = outgoing(f, port).reply().flags(ACK);
        for change in [
            |p: &mut Frame| p.payload[1] ^= 1,
            |p: &mut Frame| p.payload[3] ^= 0x80,
        ] {
            steps.push(to_pod("callee", &theirs.with(change)).drops(Policy));
        }
        steps
    });
    t.both(
        "another protocol on a connection's ports is a stray",
        |f, port| {
            let mut steps = handshake(f, port);
            let udp = Frame::udp((f.of("stranger"), 443), (f.of("callee"), port));
            let sctp = Frame::sctp((f.of("stranger"), 443), (f.of("callee"), port));
            steps.push(to_pod("callee", &udp).drops(Policy));
            steps.push(to_pod("callee", &sctp).drops(Policy));
            steps
        },
    );
}
