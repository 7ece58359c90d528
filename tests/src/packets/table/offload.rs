//! Checksums that a sender leaves to others: what will be written over must not be
//! what is judged.

use ringfence_ebpf::abi::Reason::{ChecksumOffload, Policy};

use super::flag::SYN;
use super::{Family, Table, V4, V6};
use crate::packets::Frame;
use crate::packets::frame::Extension;
use crate::packets::step::{Step, from_pod};

pub(super) fn rows(t: &mut Table) {
    own(t);
    overwritten(t);
    others(t);
    behind_extensions(t);
}

/// Where the transport header lies.
const fn transport(f: Family) -> u32 {
    if f.v4 { 34 } else { 54 }
}

fn call(f: Family, port: u16) -> Frame {
    Frame::tcp((f.of("plain"), port), (f.of("stranger"), 443), SYN)
}

fn datagram(f: Family, port: u16) -> Frame {
    let frame = Frame::udp((f.of("plain"), port), (f.of("stranger"), 53));
    frame.with(|f| f.payload.resize(64, 0))
}

fn own(t: &mut Table) {
    t.both(
        "a transport checksum of the packet's own is left to a device",
        |f, port| {
            let at = transport(f);
            let sctp = Frame::sctp((f.of("plain"), port), (f.of("stranger"), 7000));
            let ping = Frame::echo(f.of("plain"), f.of("stranger"), true, port);
            vec![
                from_pod("plain", &call(f, port)).pending(at + 16),
                from_pod("plain", &datagram(f, port)).pending(at + 6),
                from_pod("plain", &sctp).pending(at + 8),
                from_pod("plain", &ping).pending(at + 2),
            ]
        },
    );
    t.both(
        "a checksum behind the headers is left to a device, as of a packet in a tunnel's",
        |f, port| {
            let at = transport(f);
            vec![
                from_pod("plain", &datagram(f, port)).pending(at + 8),
                from_pod("plain", &datagram(f, port)).pending(at + 40),
                from_pod("plain", &call(f, port)).pending(at + 20),
            ]
        },
    );
}

fn overwritten(t: &mut Table) {
    t.both(
        "no checksum is written over an address, a port, a flag or a length",
        |f, port| {
            let at = transport(f);
            let tcp = (0..at + 20).filter(|byte| *byte != at + 16);
            let udp = (0..at + 8).filter(|byte| *byte != at + 6);
            let step = |frame: Frame| {
                move |byte| {
                    from_pod("plain", &frame)
                        .pending(byte)
                        .drops(ChecksumOffload)
                }
            };
            let tcp = tcp.map(step(call(f, port)));
            tcp.chain(udp.map(step(datagram(f, port)))).collect()
        },
    );
    t.both(
        "nor over a port of a connection that is allowed already",
        |f, port| {
            let call = Frame::tcp((f.of("caller"), port), (f.of("callee"), 8080), SYN);
            let at = transport(f);
            vec![
                from_pod("caller", &call),
                from_pod("caller", &call.flags(16)).pending(at + 16),
                from_pod("caller", &call.flags(16))
                    .pending(at + 2)
                    .drops(ChecksumOffload),
            ]
        },
    );
}

fn others(t: &mut Table) {
    t.both(
        "no checksum is written into what an ICMP error quotes",
        |f, port| {
            let about = datagram(f, port).reply();
            let kind = if f.v4 { [3, 3] } else { [1, 4] };
            let error = Frame::error(f.of("plain"), f.of("stranger"), kind, &about);
            let at = transport(f);
            vec![
                from_pod("plain", &error).pending(at + 2),
                from_pod("plain", &error)
                    .pending(at + 8 + 12)
                    .drops(ChecksumOffload),
            ]
        },
    );
    let arp = Frame::arp(
        1,
        crate::packets::fixture::find("plain").mac,
        V4.of("plain"),
        V4.of("node"),
    );
    t.row(
        "no checksum is written into ARP",
        [
            from_pod("plain", &arp),
            from_pod("plain", &arp).pending(28).drops(ChecksumOffload),
        ],
    );
    t.both(
        "a protocol without ports has its payload to itself",
        |f, _| {
            let frame = Frame::ip(f.of("plain"), f.of("stranger"), 50, vec![0; 64]);
            let at = transport(f);
            vec![
                from_pod("plain", &frame).pending(at),
                from_pod("plain", &frame)
                    .pending(at - 1)
                    .drops(ChecksumOffload),
            ]
        },
    );
}

fn behind_extensions(t: &mut Table) {
    let port = t.port();
    let far = datagram(V6, port).with(|f| f.extensions = vec![Extension::options(60, 0)]);
    let steps: [Step; 3] = [
        from_pod("plain", &far).pending(54 + 8 + 6),
        // Where the checksum would be without the header between.
        from_pod("plain", &far)
            .pending(54 + 6)
            .drops(ChecksumOffload),
        from_pod("plain", &far)
            .pending(54 + 8 + 2)
            .drops(ChecksumOffload),
    ];
    t.row("extension headers move the checksum (IPv6)", steps);
    let denied = Frame::udp((V6.of("caller"), port), (V6.of("stranger"), 53));
    t.row(
        "a checksum of the packet's own opens nothing (IPv6)",
        [from_pod("caller", &denied).pending(54 + 6).drops(Policy)],
    );
}
