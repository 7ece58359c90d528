//! IPv6 extension headers: walked, never skipped over by a fixed offset.

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{ExtensionHeader, Fragment, Malformed, Policy, SpoofedAddress};

use super::flag::SYN;
use super::{Table, V6};
use crate::packets::Frame;
use crate::packets::fixture::find;
use crate::packets::frame::Extension;
use crate::packets::step::{Step, from_pod, to_pod};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

fn syn(port: u16, extensions: Vec<Extension>) -> Frame {
    let syn = Frame::tcp((V6.of("caller"), port), (V6.of("callee"), 8080), SYN);
    syn.with(|f| f.extensions = extensions)
}

/// Passes from the caller to the callee.
fn walked(frame: &Frame) -> Vec<Step> {
    vec![from_pod("caller", frame), to_pod("callee", frame)]
}

/// Is given up at both ends.
fn given_up(frame: &Frame, reason: ringfence_ebpf::abi::Reason) -> Vec<Step> {
    walked(frame)
        .into_iter()
        .map(|s| s.drops(reason).counted_as(Protocol::Other))
        .collect()
}

fn every_kind() -> Vec<(&'static str, Extension)> {
    vec![
        ("hop-by-hop options", Extension::options(HOP_BY_HOP, 0)),
        ("long hop-by-hop options", Extension::options(HOP_BY_HOP, 3)),
        ("a routing header", Extension::options(ROUTING, 0)),
        ("destination options", Extension::options(DESTINATION, 0)),
        (
            "long destination options",
            Extension::options(DESTINATION, 20),
        ),
        ("an authentication header", Extension::authentication()),
        (
            "a fragment header of a whole packet",
            Extension::fragment(0, false, 7),
        ),
    ]
}

pub(super) fn rows(t: &mut Table) {
    for (name, extension) in every_kind() {
        let frame = syn(t.port(), vec![extension]);
        t.row(
            format!("{name}: walked to the ports behind"),
            walked(&frame),
        );
        let other = frame.with(|f| f.payload[3] ^= 1);
        t.row(
            format!("{name}: no hiding place for a port that isn't listed"),
            [
                from_pod("caller", &other).drops(Policy),
                to_pod("callee", &other).drops(Policy),
            ],
        );
    }
    order(t);
    numbers(t);
    cut_short(t);
    unread(t);
    unknown(t);
}

fn order(t: &mut Table) {
    let recommended = vec![
        Extension::options(HOP_BY_HOP, 0),
        Extension::options(DESTINATION, 0),
        Extension::options(ROUTING, 0),
        Extension::fragment(0, false, 7),
        Extension::authentication(),
        Extension::options(DESTINATION, 1),
    ];
    let port = t.port();
    t.row(
        "all extension headers in RFC 8200's order are walked",
        walked(&syn(port, recommended.clone())),
    );
    let mut reversed = recommended;
    reversed.reverse();
    reversed.pop();
    let port = t.port();
    t.row(
        "extension headers in another order are walked",
        walked(&syn(port, reversed)),
    );
    for before in [DESTINATION, ROUTING, HOP_BY_HOP] {
        let late = vec![
            Extension::options(before, 0),
            Extension::options(HOP_BY_HOP, 0),
        ];
        let frame = syn(t.port(), late);
        t.row(
            format!("hop-by-hop options after a header of kind {before} are given up"),
            given_up(&frame, ExtensionHeader),
        );
    }
}

fn numbers(t: &mut Table) {
    let headers = |count| vec![Extension::options(DESTINATION, 0); count];
    let port = t.port();
    t.row(
        "seven extension headers are walked",
        walked(&syn(port, headers(7))),
    );
    for count in [8, 20, 100] {
        let frame = syn(t.port(), headers(count));
        t.row(
            format!("{count} extension headers are given up"),
            given_up(&frame, ExtensionHeader),
        );
    }
}

fn cut_short(t: &mut Table) {
    for (name, extension) in every_kind() {
        let len = extension.1.len() + 1;
        let frame = syn(t.port(), vec![extension]);
        for keep in [0, 1, 4, len - 1] {
            let cut = |step: Step| {
                step.spoilt(|b| {
                    b.truncate(54 + keep);
                    b[18..20].copy_from_slice(&(keep as u16).to_be_bytes());
                })
            };
            t.row(
                format!("{name}: {keep} bytes of it are malformed"),
                given_up(&frame, Malformed)
                    .into_iter()
                    .map(cut)
                    .collect::<Vec<_>>(),
            );
        }
    }
    let long = syn(t.port(), vec![Extension::options(DESTINATION, 0)]);
    let claims = |step: Step| step.spoilt(|b| b[55] = 3);
    t.row(
        "a header that claims to reach past the packet is malformed",
        given_up(&long, Malformed)
            .into_iter()
            .map(claims)
            .collect::<Vec<_>>(),
    );
    let padded = |step: Step| step.spoilt(|b| b[18..20].copy_from_slice(&[0, 4]));
    t.row(
        "a header that ends in the padding is malformed",
        given_up(&long, Malformed)
            .into_iter()
            .map(padded)
            .collect::<Vec<_>>(),
    );
}

/// Linux reads on where the walk gives up: a router's advertisement lies there
/// that nobody has looked at, so no pod may send such packets, isolated or not.
fn unread(t: &mut Table) {
    let advert = |from: &str, extensions: Vec<Extension>| {
        let frame = Frame::icmp(V6.of(from), V6.of("callee"), [134, 0], &[0; 12]);
        frame.with(|f| {
            f.source_mac = find("plain").mac;
            f.extensions = extensions;
        })
    };
    let of_length_0 = |step: Step| {
        let step = step.counted_as(Protocol::Other);
        step.spoilt(|b| b[18..20].copy_from_slice(&[0, 0]))
    };
    let port = t.port();
    for (from, reason) in [("plain", Malformed), ("far", SpoofedAddress)] {
        let options = advert(from, vec![Extension::options(HOP_BY_HOP, 0)]);
        t.row(
            format!("plain, as {from}, sends no payload of length 0 behind options"),
            [of_length_0(from_pod("plain", &options).drops(reason))],
        );
    }
    for (from, reason) in [("plain", Fragment), ("far", SpoofedAddress)] {
        let first = advert(from, vec![Extension::fragment(0, true, port)]);
        let first = first.with(|f| f.payload.truncate(4));
        t.row(
            format!("plain, as {from}, sends no first fragment of half a header"),
            [from_pod("plain", &first).drops(reason)],
        );
    }
}

fn unknown(t: &mut Table) {
    // No next header, ESP, mobility, HIP, shim6: their insides are nobody's to read.
    for kind in [59, 50, 135, 139, 140] {
        let frame = |from: &str| {
            let frame = Frame::ip(
                V6.of(from),
                V6.of("callee"),
                kind,
                vec![6, 0, 0, 0, 0, 0, 0, 0],
            );
            frame.with(|f| f.extensions = vec![Extension::options(DESTINATION, 0)])
        };
        t.row(
            format!("next header {kind} is a protocol of its own, and not listed"),
            [
                from_pod("caller", &frame("caller")).drops(Policy),
                to_pod("callee", &frame("friend")).drops(Policy),
            ],
        );
        t.row(
            format!("next header {kind} passes where everything is admitted"),
            [to_pod("callee", &frame("trusted"))],
        );
    }
}
