//! Fragments: a first one must hold the whole transport header, and later ones,
//! which carry nothing by which they could be judged, follow it.

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{Fragment, Malformed, Policy};

use super::flag::SYN;
use super::{Family, Table, V6};
use crate::packets::Frame;
use crate::packets::frame::Extension;
use crate::packets::step::{from_pod, to_pod};

/// Makes a fragment of a packet: offset in units of eight bytes. Packets of other
/// source ports have other identifications.
fn cut(frame: &Frame, offset: u16, more: bool, keep: usize) -> Frame {
    frame.with(|f| {
        f.fragment = offset | if more { 0x2000 } else { 0 };
        f.identification = u16::from_be_bytes([f.payload[0], f.payload[1]]);
        f.extensions = vec![Extension::fragment(offset, more, f.identification)];
        let start = f.payload.len().min(usize::from(offset) * 8);
        f.payload.drain(..start);
        f.payload.truncate(keep);
    })
}

/// IPv6 names its protocol behind the extension headers, which a fault cuts off.
fn counted(f: Family, protocol: Protocol) -> Protocol {
    if f.v4 { protocol } else { Protocol::Other }
}

fn syn(f: Family, port: u16) -> Frame {
    let syn = Frame::tcp((f.of("caller"), port), (f.of("callee"), 8080), SYN);
    syn.with(|p| p.payload.extend([0xaa; 44]))
}

pub(super) fn rows(t: &mut Table) {
    t.both(
        "a first fragment with the whole TCP header is judged like a packet",
        |f, port| {
            let first = cut(&syn(f, port), 0, true, 24);
            vec![from_pod("caller", &first), to_pod("callee", &first)]
        },
    );
    t.both(
        "a first fragment of a call that isn't listed is denied for that",
        |f, port| {
            let first = cut(&syn(f, port), 0, true, 24).with(|p| p.payload[3] ^= 1);
            vec![from_pod("caller", &first).drops(Policy)]
        },
    );
    for keep in [0, 8, 16] {
        t.both(
            &format!("a first fragment with {keep} bytes of the TCP header is denied"),
            |f, port| {
                let first = cut(&syn(f, port), 0, true, keep);
                vec![
                    from_pod("caller", &first).drops(Fragment),
                    to_pod("callee", &first).drops(Fragment),
                ]
            },
        );
    }
    t.both(
        "a first fragment that ends inside TCP's options is denied",
        |f, port| {
            let first = cut(&syn(f, port).with(|p| p.payload[12] = 10 << 4), 0, true, 32);
            vec![from_pod("caller", &first).drops(Fragment)]
        },
    );
    t.both(
        "a first fragment with the whole UDP header is judged like a packet",
        |f, port| {
            let udp = Frame::udp((f.of("friend"), port), (f.of("callee"), 5353));
            vec![to_pod("callee", &cut(&udp, 0, true, 8))]
        },
    );
    later(t);
    following(t);
    t.both("fragments of a pod without policy pass", |f, port| {
        let whole = Frame::udp((f.of("plain"), port), (f.of("stranger"), 9));
        vec![
            from_pod("plain", &cut(&whole, 0, true, 8)),
            from_pod("plain", &cut(&whole, 1, false, 8)),
            to_pod("plain", &cut(&whole.reply(), 1, false, 8)),
        ]
    });
    t.both(
        "a staged pod audits a later fragment and gets it",
        |f, port| {
            let whole = Frame::udp((f.of("stranger"), port), (f.of("staged"), 9));
            vec![
                to_pod("staged", &cut(&whole, 1, false, 8))
                    .audits(Fragment)
                    .counted_as(counted(f, Protocol::Udp)),
            ]
        },
    );
    atomic(t);
}

fn later(t: &mut Table) {
    for (offset, more) in [(1, false), (1, true), (3, true), (8191, false)] {
        t.both(
            &format!("a fragment at {offset}, more to come: {more}, of no first one is denied"),
            |f, port| {
                let later = cut(&syn(f, port), offset, more, 8);
                let counted = counted(f, Protocol::Tcp);
                vec![
                    from_pod("caller", &later)
                        .drops(Fragment)
                        .counted_as(counted),
                    to_pod("callee", &later).drops(Fragment).counted_as(counted),
                ]
            },
        );
    }
    t.both(
        "a later fragment doesn't borrow the connection that its bytes spell",
        |f, port| {
            let whole = syn(f, port);
            // Its payload is another TCP header, of the very ports of a live connection.
            let disguised = cut(&whole, 0, false, 64).with(|p| {
                p.fragment = 8;
                p.extensions = vec![Extension::fragment(8, false, p.identification)];
            });
            vec![
                from_pod("caller", &whole),
                from_pod("caller", &disguised)
                    .drops(Fragment)
                    .counted_as(counted(f, Protocol::Tcp)),
            ]
        },
    );
}

fn following(t: &mut Table) {
    t.both(
        "later fragments follow an allowed first one, in any order",
        |f, port| {
            let whole = syn(f, port);
            let first = cut(&whole, 0, true, 24);
            let (second, third) = (cut(&whole, 3, true, 8), cut(&whole, 4, false, 64));
            let mut steps = Vec::new();
            for fragment in [&first, &third, &second] {
                steps.push(from_pod("caller", fragment));
                steps.push(to_pod("callee", fragment));
            }
            steps
        },
    );
    t.both(
        "no fragment follows a first one that was denied",
        |f, port| {
            let whole = syn(f, port).with(|p| p.payload[3] ^= 1);
            let counted = counted(f, Protocol::Tcp);
            vec![
                from_pod("caller", &cut(&whole, 0, true, 24)).drops(Policy),
                from_pod("caller", &cut(&whole, 3, false, 64))
                    .drops(Fragment)
                    .counted_as(counted),
            ]
        },
    );
    t.both(
        "a fragment that overlaps the first one is denied",
        |f, port| {
            let whole = syn(f, port);
            let counted = counted(f, Protocol::Tcp);
            vec![
                from_pod("caller", &cut(&whole, 0, true, 24)),
                from_pod("caller", &cut(&whole, 2, true, 8))
                    .drops(Fragment)
                    .counted_as(counted),
                from_pod("caller", &cut(&whole, 3, true, 8)),
            ]
        },
    );
    t.both(
        "a second, shorter first fragment uncovers nothing of the first one",
        |f, port| {
            let whole = syn(f, port);
            vec![
                from_pod("caller", &cut(&whole, 0, true, 32)),
                from_pod("caller", &cut(&whole, 0, true, 24)),
                from_pod("caller", &cut(&whole, 3, true, 8))
                    .drops(Fragment)
                    .counted_as(counted(f, Protocol::Tcp)),
                from_pod("caller", &cut(&whole, 4, true, 8)),
            ]
        },
    );
    t.both("a fragment of another packet doesn't follow", |f, port| {
        let whole = syn(f, port);
        let other = cut(&whole, 3, false, 64).with(|p| {
            p.identification ^= 1;
            p.extensions = vec![Extension::fragment(3, false, p.identification)];
        });
        vec![
            from_pod("caller", &cut(&whole, 0, true, 24)),
            from_pod("caller", &other)
                .drops(Fragment)
                .counted_as(counted(f, Protocol::Tcp)),
        ]
    });
}

fn atomic(t: &mut Table) {
    let port = t.port();
    let syn = Frame::tcp((V6.of("caller"), port), (V6.of("callee"), 8080), SYN);
    let whole = syn.with(|f| f.extensions = vec![Extension::fragment(0, false, port)]);
    t.row(
        "a packet with a fragment header that is a whole one is judged like any (IPv6)",
        [from_pod("caller", &whole), to_pod("callee", &whole)],
    );
    let short = whole.with(|f| f.payload.truncate(12));
    t.row(
        "a whole packet with a fragment header and half a TCP header is malformed (IPv6)",
        [from_pod("caller", &short).drops(Malformed)],
    );
}
