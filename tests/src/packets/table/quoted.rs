//! ICMPv6 errors that quote extension headers, and fragments of either family.

use ringfence_ebpf::abi::Reason::Policy;

use super::flag::SYN;
use super::icmp::errors;
use super::{Family, Table, V4, V6};
use crate::packets::Frame;
use crate::packets::frame::Extension;
use crate::packets::step::{Step, from_pod, to_pod};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

/// A Fragment header's own: where it belongs, whether more follow, which packet it is of.
fn fragment(at: u16, more: bool) -> Extension {
    let [high, low] = (at << 3 | u16::from(more)).to_be_bytes();
    Extension(FRAGMENT, vec![0, high, low, 0, 0, 7, 7])
}

/// Options that are padding (PadN).
fn padding(kind: u8) -> Extension {
    Extension(kind, vec![0, 1, 4, 0, 0, 0, 0])
}

/// A routing header (type 0), and how many segments are left.
fn routing(left: u8) -> Extension {
    Extension(ROUTING, vec![0, 0, left, 0, 0, 0, 0])
}

/// Four bytes of header and eight of a sum (RFC 4302).
fn authentication() -> Extension {
    Extension(AUTHENTICATION, vec![1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1])
}

pub(super) fn rows(t: &mut Table) {
    walked(t);
    unwalked(t);
    reporters(t);
    first_fragments(t);
}

/// An error of each kind about what the callee has sent, with headers that only the quoted
/// packet shows: routers add none, but the connection is the same.
fn about(f: Family, port: u16, udp: bool, with: &[Extension]) -> (Frame, Frame) {
    let (own, peer) = ((f.of("callee"), port), f.of("stranger"));
    let sent = if udp {
        Frame::udp(own, (peer, 53))
    } else {
        Frame::tcp(own, (peer, 443), SYN)
    };
    let quoted = sent.with(|p| p.extensions = with.to_vec());
    (sent, quoted)
}

fn reported(from: &str, kind: usize, quoted: &Frame) -> Step {
    let error = Frame::error(V6.of(from), V6.of("callee"), errors(V6)[kind].1, quoted);
    to_pod("callee", &error)
}

fn walked(t: &mut Table) {
    let cases = [
        ("a Fragment header", vec![fragment(0, true)]),
        ("an atomic fragment's header", vec![fragment(0, false)]),
        ("destination options", vec![padding(OPTIONS)]),
        ("hop-by-hop options", vec![padding(HOP_BY_HOP)]),
        ("a used-up routing header", vec![routing(0)]),
        ("an authentication header", vec![authentication()]),
        (
            "options, a route and a fragment",
            vec![
                padding(HOP_BY_HOP),
                padding(OPTIONS),
                routing(0),
                fragment(0, true),
                authentication(),
                padding(OPTIONS),
            ],
        ),
    ];
    for (name, with) in cases {
        for (kind, (error, _)) in errors(V6).into_iter().enumerate() {
            for (udp, protocol) in [(true, "UDP"), (false, "TCP")] {
                let port = t.port();
                let (sent, quoted) = about(V6, port, udp, &with);
                t.row(
                    format!("{error} that quotes {name} before {protocol} reaches a closed pod"),
                    [
                        reported("router", kind, &quoted).drops(Policy),
                        from_pod("callee", &sent),
                        reported("router", kind, &quoted),
                    ],
                );
            }
        }
    }
}

fn unwalked(t: &mut Table) {
    let cases = [
        ("a later fragment", vec![fragment(185, true)]),
        ("a route that leads on", vec![routing(1)]),
        (
            "hop-by-hop options that come late",
            vec![padding(OPTIONS), padding(HOP_BY_HOP)],
        ),
        ("more headers than are walked", vec![padding(OPTIONS); 8]),
    ];
    for (name, with) in cases {
        let port = t.port();
        let (sent, quoted) = about(V6, port, true, &with);
        t.row(
            format!("packet-too-big that quotes {name} is denied"),
            [
                from_pod("callee", &sent),
                reported("router", 1, &quoted).drops(Policy),
            ],
        );
    }
    let port = t.port();
    let (sent, quoted) = about(V6, port, true, &[fragment(0, true)]);
    for (name, end) in [
        ("ends before the ports", 8 + 40 + 8),
        ("ends inside the ports' header", 8 + 40 + 8 + 7),
        ("ends inside the extension header", 8 + 40 + 4),
    ] {
        let error = Frame::error(V6.of("router"), V6.of("callee"), [2, 0], &quoted);
        let cut = error.with(|e| e.payload.truncate(end));
        t.row(
            format!("packet-too-big that quotes a Fragment header and {name} is denied"),
            [
                from_pod("callee", &sent),
                to_pod("callee", &cut).drops(Policy),
            ],
        );
    }
}

/// Only errors whose sender could have seen the packet count, whatever it quotes.
fn reporters(t: &mut Table) {
    let port = t.port();
    let (sent, quoted) = about(V6, port, true, &[fragment(0, true)]);
    let other = quoted.with(|p| p.payload[1] ^= 0x80);
    t.row(
        "an error that quotes a fragment counts from those alone who could have seen it",
        [
            from_pod("callee", &sent),
            reported("plain", 1, &quoted).drops(Policy),
            reported("far", 1, &quoted).drops(Policy),
            reported("router", 1, &other).drops(Policy),
            reported("router", 1, &quoted.reply()).drops(Policy),
            reported("stranger", 1, &quoted),
        ],
    );
}

fn first_fragments(t: &mut Table) {
    let port = t.port();
    let sent = Frame::udp((V4.of("callee"), port), (V4.of("stranger"), 53));
    let first = sent.with(|p| p.fragment = 0x2000);
    let error = Frame::error(V4.of("router"), V4.of("callee"), [3, 4], &first);
    t.row(
        "an error that quotes a first fragment reaches a closed pod (IPv4)",
        [from_pod("callee", &sent), to_pod("callee", &error)],
    );
}
