//! Connections that were open before any hook was there, once the pick-up window is over:
//! nobody forbidden goes on as the other end's reply.

use ringfence_ebpf::abi::Reason::Policy;

use super::flag::{ACK, SYN};
use super::{Family, Table};
use crate::packets::Frame;
use crate::packets::step::{from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    forbidden(t);
    datagrams(t);
    allowed(t);
    free(t);
}

/// A port that a socket was given, of nobody else's.
fn given(port: u16) -> u16 {
    port + 20_000
}

fn segment(f: Family, from: (&str, u16), to: (&str, u16)) -> Frame {
    Frame::tcp((f.of(from.0), from.1), (f.of(to.0), to.1), ACK)
}

fn forbidden(t: &mut Table) {
    for server in ["stranger", "plain", "other-node", "far"] {
        t.both(
            &format!("a closed sender's old connection to {server} ends, whoever speaks first"),
            |f, port| {
                let theirs = segment(f, (server, 8443), ("caller", given(port)));
                vec![
                    to_pod("caller", &theirs),
                    from_pod("caller", &theirs.reply()).drops(Policy),
                    to_pod("caller", &theirs.data(8)),
                    from_pod("caller", &theirs.reply().data(8)).drops(Policy),
                ]
            },
        );
    }
    for caller in ["stranger", "plain", "node", "bridge", "far"] {
        t.both(
            &format!("an old connection of {caller}, which is denied, ends at a closed callee"),
            |f, port| {
                let ours = segment(f, ("callee", 8080), (caller, given(port)));
                vec![
                    from_pod("callee", &ours),
                    to_pod("callee", &ours.reply()).drops(Policy),
                    from_pod("callee", &ours.data(8)),
                    to_pod("callee", &ours.reply().data(8)).drops(Policy),
                ]
            },
        );
    }
    t.both(
        "an old connection that its client's and its server's policy deny ends at both",
        |f, port| {
            let theirs = segment(f, ("callee", 9), ("caller", given(port)));
            vec![
                from_pod("callee", &theirs),
                to_pod("caller", &theirs),
                from_pod("caller", &theirs.reply()).drops(Policy),
                to_pod("callee", &theirs.reply()).drops(Policy),
            ]
        },
    );
    t.both("a stray SYN-ACK opens nothing for who got it", |f, port| {
        let theirs = segment(f, ("stranger", 8443), ("caller", given(port)));
        vec![
            to_pod("caller", &theirs.flags(SYN | ACK)),
            from_pod("caller", &theirs.reply()).drops(Policy),
        ]
    });
    t.both(
        "a forbidden association goes on no more than a connection does",
        |f, port| {
            let theirs = Frame::sctp((f.of("stranger"), 7000), (f.of("caller"), given(port)));
            let theirs = theirs.with(|p| p.payload[12] = 0);
            vec![
                to_pod("caller", &theirs),
                from_pod("caller", &theirs.reply()).drops(Policy),
            ]
        },
    );
}

fn datagrams(t: &mut Table) {
    t.both(
        "a late answer doesn't let a closed sender go on asking",
        |f, port| {
            let own = (f.of("caller"), given(port));
            let theirs = Frame::udp((f.of("stranger"), 53), own);
            vec![
                to_pod("caller", &theirs),
                from_pod("caller", &theirs.reply()).drops(Policy),
            ]
        },
    );
    t.both(
        "a closed callee's answer doesn't let a denied caller go on asking",
        |f, port| {
            let peer = (f.of("stranger"), given(port));
            let ours = Frame::udp((f.of("callee"), 5353), peer);
            vec![
                from_pod("callee", &ours),
                to_pod("callee", &ours.reply()).drops(Policy),
            ]
        },
    );
    t.both(
        "whoever asks from a port that it was given is answered by a closed sender",
        |f, port| {
            let asks = Frame::udp((f.of("stranger"), given(port)), (f.of("caller"), 53));
            vec![to_pod("caller", &asks), from_pod("caller", &asks.reply())]
        },
    );
    t.both(
        "two ports that say nothing are those of whoever sends first",
        |f, port| {
            let asks = Frame::udp((f.of("stranger"), port), (f.of("caller"), 123));
            vec![to_pod("caller", &asks), from_pod("caller", &asks.reply())]
        },
    );
}

fn allowed(t: &mut Table) {
    t.both(
        "an old connection that a rule admits goes on, if its server speaks first",
        |f, port| {
            let theirs = segment(f, ("callee", 8080), ("caller", given(port)));
            vec![
                from_pod("callee", &theirs),
                to_pod("caller", &theirs),
                from_pod("caller", &theirs.reply()),
                to_pod("callee", &theirs.reply()),
                from_pod("callee", &theirs.data(8)),
                to_pod("caller", &theirs.data(8)),
            ]
        },
    );
    t.both(
        "an old connection that a rule admits goes on, if its client speaks first",
        |f, port| {
            let ours = segment(f, ("caller", given(port)), ("callee", 8080));
            vec![
                from_pod("caller", &ours),
                to_pod("callee", &ours),
                from_pod("callee", &ours.reply()),
                to_pod("caller", &ours.reply()),
            ]
        },
    );
}

fn free(t: &mut Table) {
    t.both(
        "an old connection of pods without policy goes on, whoever speaks first",
        |f, port| {
            let ours = segment(f, ("plain", 80), ("stranger", given(port)));
            vec![
                from_pod("plain", &ours),
                to_pod("plain", &ours.reply()),
                from_pod("plain", &ours.data(8)),
            ]
        },
    );
}
