//! What lies below IP: ARP, and to whom a frame is addressed.

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{
    Malformed, NonIp, NotAddressed, Policy, SpoofedArp, SpoofedMac, Vlan,
};

use super::flag::SYN;
use super::{Family, Table, V4};
use crate::packets::Frame;
use crate::packets::fixture::{GATEWAY_MAC, PODS, find};
use crate::packets::step::{from_pod, to_pod};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

pub(super) fn rows(t: &mut Table) {
    honest(t);
    forged(t);
    odd(t);
    addressed(t);
    in_vlans(t);
}

fn honest(t: &mut Table) {
    for pod in PODS {
        let arp = |operation, sender: &str, target: &str| {
            Frame::arp(operation, pod.mac, V4.of(sender), V4.of(target))
        };
        let name = pod.name;
        t.row(
            format!("{name} asks for its gateway"),
            [from_pod(name, &arp(REQUEST, name, "bridge"))],
        );
        t.row(
            format!("{name} tells who it is"),
            [from_pod(name, &arp(REPLY, name, "bridge"))],
        );
        t.row(
            format!("{name} announces its own address"),
            [from_pod(name, &arp(REQUEST, name, name))],
        );
        let probe = Frame::arp(REQUEST, pod.mac, [0, 0, 0, 0].into(), V4.of(name));
        t.row(
            format!("{name} probes for its own address"),
            [from_pod(name, &probe)],
        );
        let asked = Frame::arp(REQUEST, GATEWAY_MAC, V4.of("bridge"), V4.of(name));
        t.row(
            format!("{name} is asked who it is, by broadcast"),
            [to_pod(name, &asked)],
        );
        let told = asked.with(|f| f.destination_mac = pod.mac);
        t.row(
            format!("{name} is asked or told, by its MAC"),
            [to_pod(name, &told)],
        );
    }
}

fn forged(t: &mut Table) {
    for pod in ["plain", "caller", "staged", "cut", "single"] {
        let mac = find(pod).mac;
        for (victim, name) in [
            ("bridge", "its gateway"),
            ("callee", "another pod"),
            ("node", "the node"),
        ] {
            for (operation, verb) in [(REQUEST, "asks"), (REPLY, "answers")] {
                let lie = Frame::arp(operation, mac, V4.of(victim), V4.of("far"));
                t.row(
                    format!("{pod} {verb} as {name}"),
                    [from_pod(pod, &lie).drops(SpoofedArp)],
                );
            }
        }
        let honest = Frame::arp(REPLY, mac, V4.of(pod), V4.of("bridge"));
        let hidden = honest.with(|f| f.payload[8..14].copy_from_slice(&GATEWAY_MAC));
        t.row(
            format!("{pod} tells its own address with another's MAC"),
            [from_pod(pod, &hidden).drops(SpoofedArp)],
        );
        let outer = honest.with(|f| f.source_mac = GATEWAY_MAC);
        t.row(
            format!("{pod} sends ARP from another's MAC"),
            [from_pod(pod, &outer).drops(SpoofedMac)],
        );
    }
}

fn odd(t: &mut Table) {
    let lie = Frame::arp(REPLY, find("plain").mac, V4.of("bridge"), V4.of("callee"));
    // Linux takes IEEE 802's hardware type for Ethernet's (arp_process).
    t.row(
        "ARP of hardware type 6 for another's address is forged",
        [from_pod("plain", &lie.with(|f| f.payload[1] = 6)).drops(SpoofedArp)],
    );
    let plain = Frame::arp(REPLY, find("plain").mac, V4.of("plain"), V4.of("bridge"));
    let asked = Frame::arp(REQUEST, GATEWAY_MAC, V4.of("bridge"), V4.of("callee"));
    for (at, name) in [
        (2, "another protocol"),
        (4, "longer MACs"),
        (5, "longer addresses"),
    ] {
        let odd = |arp: &Frame| arp.with(|f| f.payload[at] ^= 0x10);
        t.row(
            format!("ARP of {name} is sent by nobody, nor taken in by a closed pod"),
            [
                from_pod("plain", &odd(&plain)).drops(SpoofedArp).nameless(),
                to_pod("callee", &odd(&asked)).drops(NonIp).nameless(),
            ],
        );
    }
    for len in [1, 8, 20, 27] {
        let cut = |arp: &Frame| arp.with(|f| f.payload.truncate(len));
        t.row(
            format!("{len} bytes of ARP tell nothing that could be checked"),
            [
                from_pod("plain", &cut(&plain)).drops(SpoofedArp).nameless(),
                to_pod("callee", &cut(&asked)).drops(Malformed).nameless(),
            ],
        );
    }
    let padded = plain.with(|f| f.payload.resize(46, 0));
    t.row(
        "ARP padded to Ethernet's least is ARP",
        [from_pod("plain", &padded)],
    );
}

fn addressed(t: &mut Table) {
    for pod in PODS {
        t.both(
            &format!("a frame for another's MAC doesn't reach {}", pod.name),
            |f, port| {
                let syn = Frame::tcp((f.of("trusted"), port), (f.of("callee"), 8080), SYN);
                let astray = syn.with(|f| f.destination_mac = GATEWAY_MAC);
                vec![to_pod(pod.name, &astray).drops(NotAddressed)]
            },
        );
    }
    let arp = Frame::arp(REPLY, GATEWAY_MAC, V4.of("bridge"), V4.of("callee"));
    let astray = arp.with(|f| f.destination_mac = find("plain").mac);
    t.row(
        "ARP for another's MAC doesn't arrive",
        [to_pod("callee", &astray).drops(NotAddressed)],
    );
    t.both("a frame to all is for everybody, and judged", |f, port| {
        let to_all = |to: &str| {
            let udp = Frame::udp((f.of("stranger"), port), (f.of(to), 5353));
            udp.with(|f| f.destination_mac = [0xff; 6])
        };
        vec![
            to_pod("plain", &to_all("plain")),
            to_pod("callee", &to_all("callee")).drops(Policy),
        ]
    });
    let port = t.port();
    for (name, mac, to) in [
        ("multicast", [1, 0, 0x5e, 0, 0, 0xfb], [224, 0, 0, 251]),
        ("broadcast", [0xff; 6], [255, 255, 255, 255]),
    ] {
        let udp = Frame::udp((V4.of("stranger"), port), (to.into(), 5353));
        let udp = udp.with(|f| f.destination_mac = mac);
        t.row(
            format!("{name} reaches a pod without policy, not a closed one"),
            [
                to_pod("plain", &udp),
                to_pod("callee", &udp)
                    .drops(Policy)
                    .counted_as(Protocol::Udp),
            ],
        );
    }
}

/// Tags that have left the bytes, as every outer one has at tc.
fn in_vlans(t: &mut Table) {
    let syn =
        |f: Family, from: &str, port| Frame::tcp((f.of(from), port), (f.of("callee"), 8080), SYN);
    // Linux takes a tag of VLAN 0 off behind the hook.
    for pod in ["plain", "caller", "staged", "cut"] {
        t.both(
            &format!("{pod} sends nothing in a VLAN, policy or not"),
            |f, port| vec![from_pod(pod, &syn(f, pod, port)).in_vlan().drops(Vlan)],
        );
    }
    t.both(
        "what a VLAN brings is judged by who it is for",
        |f, port| {
            let to = |pod| Frame::tcp((f.of("trusted"), port), (f.of(pod), 8080), SYN);
            vec![
                to_pod("callee", &to("callee")).in_vlan().drops(Vlan),
                to_pod("staged", &to("staged")).in_vlan().audits(Vlan),
                to_pod("plain", &to("plain")).in_vlan(),
            ]
        },
    );
    t.both(
        "a call of a Service in a VLAN doesn't come out behind it",
        |f, port| {
            let syn = Frame::tcp((f.of("caller"), port), (f.of("plain"), 8080), SYN);
            vec![
                to_pod("plain", &syn)
                    .by_pod("caller", true)
                    .in_vlan()
                    .decided_by_sender()
                    .drops(Vlan),
            ]
        },
    );
}
