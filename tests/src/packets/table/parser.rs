//! Headers that contradict themselves or the frame, options, padding.

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{Malformed, NonIp, Policy, SpoofedAddress, Vlan};

use super::flag::SYN;
use super::{Family, Table, V4, V6};
use crate::packets::Frame;
use crate::packets::fixture::find;
use crate::packets::frame::IPV6;
use crate::packets::step::{Step, from_pod, to_pod};

pub(super) fn rows(t: &mut Table) {
    lengths(t);
    short_headers(t);
    total_lengths(t);
    versions(t);
    options(t);
    tcp_headers(t);
    big(t);
    mapped(t);
    ethertypes(t);
}

fn syn(f: Family, port: u16) -> Frame {
    Frame::tcp((f.of("caller"), port), (f.of("callee"), 8080), SYN)
}

/// What is known of the protocol of a packet that was given up at its IP header.
fn early(f: Family) -> Protocol {
    if f.v4 { Protocol::Tcp } else { Protocol::Other }
}

/// Offset and correction of a family's length field: IPv4's counts the header.
fn set_len(f: Family, bytes: &mut [u8], transport: u16) {
    let (at, len) = if f.v4 {
        (16, transport + 20)
    } else {
        (18, transport)
    };
    bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

fn both_ends(frame: &Frame, change: impl Fn(Step) -> Step) -> Vec<Step> {
    vec![
        change(from_pod("caller", frame)),
        change(to_pod("callee", frame)),
    ]
}

fn lengths(t: &mut Table) {
    t.both(
        "a header that claims more than the frame holds is malformed",
        |f, port| {
            both_ends(&syn(f, port), |step| {
                step.spoilt(|b| set_len(f, b, 21))
                    .drops(Malformed)
                    .counted_as(early(f))
            })
        },
    );
    t.both(
        "padding behind what the header claims is nobody's",
        |f, port| both_ends(&syn(f, port), |step| step.spoilt(|b| b.extend([0; 40]))),
    );
    t.both("a TCP header in the padding is no header", |f, port| {
        both_ends(&syn(f, port), |step| {
            step.spoilt(|b| set_len(f, b, 0))
                .drops(Malformed)
                .counted_as(Protocol::Tcp)
        })
    });
    t.both(
        "a TCP header that ends in the padding is malformed",
        |f, port| {
            both_ends(&syn(f, port), |step| {
                step.spoilt(|b| set_len(f, b, 19)).drops(Malformed)
            })
        },
    );
}

fn short_headers(t: &mut Table) {
    t.both(
        "a UDP header that ends in the padding is malformed",
        |f, port| {
            let udp = Frame::udp((f.of("friend"), port), (f.of("callee"), 5353));
            vec![
                to_pod("callee", &udp)
                    .spoilt(|b| set_len(f, b, 7))
                    .drops(Malformed),
            ]
        },
    );
    t.both(
        "an SCTP header that ends in the padding is malformed",
        |f, port| {
            let sctp = Frame::sctp((f.of("friend"), port), (f.of("callee"), 7000));
            vec![
                to_pod("callee", &sctp)
                    .spoilt(|b| set_len(f, b, 11))
                    .drops(Malformed),
            ]
        },
    );
    t.both(
        "an ICMP header that ends in the padding is malformed",
        |f, port| {
            let echo = Frame::echo(f.of("trusted"), f.of("callee"), true, port);
            vec![
                to_pod("callee", &echo)
                    .spoilt(|b| set_len(f, b, 7))
                    .drops(Malformed),
            ]
        },
    );
}

fn total_lengths(t: &mut Table) {
    let port = t.port();
    for len in [0, 19] {
        t.row(
            format!("a total length of {len} is malformed (IPv4)"),
            both_ends(&syn(V4, port), |step| {
                step.spoilt(|b| b[16..18].copy_from_slice(&[0, len]))
                    .drops(Malformed)
            }),
        );
    }
}

fn versions(t: &mut Table) {
    for version in [0, 4, 5, 6, 15] {
        t.both(
            &format!("IP version {version} under the other's EtherType is malformed"),
            |f, port| {
                let own = if f.v4 { 4 } else { 6 };
                let step = |step: Step| step.spoilt(|b| b[14] = version << 4 | b[14] & 15);
                both_ends(&syn(f, port), |s| match step(s) {
                    same if version == own => same,
                    other => other.drops(Malformed).counted_as(early(f)),
                })
            },
        );
    }
    for words in [0, 4] {
        let port = t.port();
        t.row(
            format!("a header of {words} words is malformed (IPv4)"),
            both_ends(&syn(V4, port), |s| {
                s.spoilt(|b| b[14] = 0x40 | words).drops(Malformed)
            }),
        );
    }
    let port = t.port();
    t.row(
        "a header longer than the packet is malformed (IPv4)",
        both_ends(&syn(V4, port), |s| {
            s.spoilt(|b| b[14] = 0x4f).drops(Malformed)
        }),
    );
}

fn options(t: &mut Table) {
    // No-operation, router alert, a record of one route, the most that fits.
    let kinds: [(&str, Vec<u8>); 4] = [
        ("no-operation", vec![1, 1, 1, 0]),
        ("router alert", vec![148, 4, 0, 0]),
        ("record route", vec![7, 7, 4, 0, 0, 0, 0, 0]),
        ("40 bytes of", vec![1; 40]),
    ];
    for (name, options) in kinds {
        let port = t.port();
        let listed = syn(V4, port).with(|f| f.options.clone_from(&options));
        t.row(
            format!("{name} options are walked to the ports behind them (IPv4)"),
            both_ends(&listed, |s| s),
        );
        let other = listed.with(|f| f.payload[3] ^= 1);
        t.row(
            format!("{name} options don't hide a port that isn't listed (IPv4)"),
            both_ends(&other, |s| s.drops(Policy)),
        );
        // At a fixed offset of 20 the options would be the ports.
        let disguise = listed.with(|f| {
            let [high, low] = 8080_u16.to_be_bytes();
            f.options[..4].copy_from_slice(&[1, 1, high, low]);
            f.payload[3] ^= 1;
        });
        t.row(
            format!("{name} options that look like ports aren't taken for them (IPv4)"),
            both_ends(&disguise, |s| s.drops(Policy)),
        );
    }
}

fn tcp_headers(t: &mut Table) {
    for words in [0, 4] {
        t.both(
            &format!("a TCP header of {words} words is malformed"),
            |f, port| {
                let frame = syn(f, port).with(|p| p.payload[12] = words << 4);
                both_ends(&frame, |s| s.drops(Malformed))
            },
        );
    }
    t.both(
        "a TCP header longer than the packet is malformed",
        |f, port| {
            let frame = syn(f, port).with(|p| p.payload[12] = 6 << 4);
            both_ends(&frame, |s| s.drops(Malformed))
        },
    );
    t.both("TCP options are part of the header", |f, port| {
        let frame = syn(f, port).with(|p| {
            p.payload[12] = 6 << 4;
            p.payload.extend([2, 4, 5, 0xb4]);
        });
        both_ends(&frame, |s| s)
    });
}

fn big(t: &mut Table) {
    t.both(
        "a length of zero is that of a packet beyond 64 KiB",
        |f, port| {
            let frame = syn(f, port).with(|p| p.payload.resize(70_000, 0));
            both_ends(&frame, |s| {
                s.spoilt(|b| b[if f.v4 { 16..18 } else { 18..20 }].copy_from_slice(&[0, 0]))
            })
        },
    );
}

fn mapped(t: &mut Table) {
    let port = t.port();
    let mapped = |name: &str| match V4.of(name) {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    };
    let frame = |source, destination| {
        let macs = Frame::tcp((V4.of("caller"), port), (V4.of("callee"), 8080), SYN);
        Frame::tcp((source, port), (destination, 8080), SYN).with(|f| {
            (f.source_mac, f.destination_mac) = (macs.source_mac, macs.destination_mac);
        })
    };
    let to = |frame| {
        to_pod("callee", &frame)
            .drops(Malformed)
            .counted_as(Protocol::Other)
    };
    t.row(
        "an IPv6 packet from a mapped IPv4 address isn't taken for that address's",
        [Step {
            ends: ("bank/caller", "bank/callee"),
            ..to(frame(mapped("caller"), V6.of("callee")))
        }],
    );
    t.row(
        "an IPv6 packet to a mapped IPv4 address isn't taken for one to that address",
        [to(frame(V6.of("caller"), mapped("callee")))],
    );
    let own = frame(mapped("plain"), V6.of("callee")).with(|f| f.source_mac = find("plain").mac);
    t.row(
        "nobody owns a mapped address on IPv6",
        [from_pod("plain", &own)
            .drops(SpoofedAddress)
            .counted_as(Protocol::Other)],
    );
}

fn ethertypes(t: &mut Table) {
    let port = t.port();
    // IPX, LLDP, MPLS, PPPoE, a length (802.3), and local experiments.
    for kind in [0x8137_u16, 0x88cc, 0x8847, 0x8864, 0x0026, 0x88b5] {
        let frame = syn(V4, port);
        let spoil = |s: Step| s.spoilt(|b| b[12..14].copy_from_slice(&kind.to_be_bytes()));
        t.row(
            format!("EtherType {kind:#06x} is no IP"),
            both_ends(&frame, |s| {
                spoil(s).drops(NonIp).nameless().counted_as(Protocol::Other)
            }),
        );
        let plain = syn(V4, port).with(|f| f.source_mac = find("plain").mac);
        t.row(
            format!("EtherType {kind:#06x} passes a pod without policy"),
            [spoil(from_pod("plain", &plain))],
        );
    }
    for kind in [0x8100_u16, 0x88a8] {
        let tag =
            |s: Step| s.spoilt(|b| drop(b.splice(12..12, [kind.to_be_bytes(), [0, 5]].concat())));
        t.row(
            format!("a tag of type {kind:#06x} in the frame is a VLAN's"),
            both_ends(&syn(V4, port), |s| {
                tag(s).drops(Vlan).nameless().counted_as(Protocol::Other)
            }),
        );
        // Linux takes a second tag off after the hook has looked.
        let plain = syn(V4, port).with(|f| f.source_mac = find("plain").mac);
        t.row(
            format!("a tag of type {kind:#06x} in the frame hides nothing, policy or not"),
            [tag(from_pod("plain", &plain))
                .drops(Vlan)
                .nameless()
                .counted_as(Protocol::Other)],
        );
    }
    t.row(
        "IPv4 under IPv6's EtherType is malformed",
        // Forty bytes are there, but what lies at its addresses is chance.
        [to_pod("callee", &syn(V4, port))
            .spoilt(|b| b[12..14].copy_from_slice(&IPV6.to_be_bytes()))
            .drops(Malformed)
            .nameless()
            .counted_as(Protocol::Other)],
    );
}
