//! Sending as somebody else, which no pod may, isolated or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{Policy, SpoofedAddress, SpoofedMac};

use super::flag::SYN;
use super::{Family, Table, V4, V6};
use crate::packets::Frame;
use crate::packets::fixture::{GATEWAY_MAC, find};
use crate::packets::frame::Extension;
use crate::packets::step::from_pod;

/// A frame with the pod's MAC and any source.
fn as_source(pod: &str, source: IpAddr, destination: IpAddr, port: u16) -> Frame {
    let frame = Frame::udp((source, port), (destination, 53));
    frame.with(|f| f.source_mac = find(pod).mac)
}

pub(super) fn rows(t: &mut Table) {
    for pod in ["plain", "caller", "staged", "cut"] {
        for (victim, name) in [
            ("callee", "another pod"),
            ("far", "a pod of another node"),
            ("node", "its node"),
            ("bridge", "its gateway"),
            ("stranger", "the outside"),
        ] {
            t.both(&format!("{pod} doesn't send as {name}"), |f, port| {
                let frame = as_source(pod, f.of(victim), f.of("far"), port);
                vec![from_pod(pod, &frame).drops(SpoofedAddress)]
            });
        }
        t.both(
            &format!("{pod} doesn't send from another's MAC"),
            |f, port| {
                let own = as_source(pod, f.of(pod), f.of("far"), port);
                let group = own.with(|f| f.source_mac[0] |= 1);
                vec![
                    from_pod(pod, &own.with(|f| f.source_mac = GATEWAY_MAC)).drops(SpoofedMac),
                    from_pod(pod, &own.with(|f| f.source_mac = find("callee").mac))
                        .drops(SpoofedMac),
                    from_pod(pod, &group).drops(SpoofedMac),
                ]
            },
        );
        special(t, pod);
    }
    link_local(t);
    faults(t);
    one_family(t);
}

fn special(t: &mut Table, pod: &'static str) {
    let v4 = [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
    ];
    let v6 = [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    ];
    let sources = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from));
    for source in sources {
        let to = if source.is_ipv4() { V4 } else { V6 }.of("far");
        let frame = as_source(pod, source, to, t.port());
        t.row(
            format!("{pod} doesn't send from {source}"),
            [from_pod(pod, &frame).drops(SpoofedAddress)],
        );
    }
}

fn link_local(t: &mut Table) {
    let groups = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into();
    for (pod, listed) in [("plain", true), ("caller", false)] {
        let own = find(pod).link_local();
        let step = from_pod(pod, &as_source(pod, own, groups, t.port()));
        t.row(
            format!("{pod} may send from its own link-local address, as far as policy goes"),
            [if listed { step } else { step.drops(Policy) }],
        );
        let other = as_source(pod, find("callee").link_local(), groups, t.port());
        t.row(
            format!("{pod} doesn't send from another's link-local address"),
            [from_pod(pod, &other).drops(SpoofedAddress)],
        );
    }
}

/// What can't be parsed to its end is held against its source all the same.
fn faults(t: &mut Table) {
    let counted = |f: Family| if f.v4 { Protocol::Udp } else { Protocol::Other };
    t.both("a later fragment as another is spoofed", |f, port| {
        let frame = as_source("plain", f.of("callee"), f.of("far"), port).with(|f| {
            f.fragment = 1;
            f.extensions = vec![Extension::fragment(1, false, 7)];
        });
        vec![
            from_pod("plain", &frame)
                .drops(SpoofedAddress)
                .counted_as(counted(f)),
        ]
    });
    t.both("a malformed packet as another is spoofed", |f, port| {
        let frame = as_source("plain", f.of("callee"), f.of("far"), port);
        let step = from_pod("plain", &frame).spoilt(|b| b.truncate(56));
        vec![step.drops(SpoofedAddress).counted_as(counted(f))]
    });
    t.both(
        "the reply of an open connection isn't sent as another",
        |f, port| {
            let syn = Frame::tcp((f.of("stranger"), port), (f.of("caller"), 80), SYN);
            let stolen = syn.reply().with(|f| f.source_mac = find("plain").mac);
            vec![
                crate::packets::step::to_pod("caller", &syn),
                from_pod("plain", &stolen).drops(SpoofedAddress),
            ]
        },
    );
}

/// A pod with one family owns nothing of the other but its link-local address.
fn one_family(t: &mut Table) {
    let global: IpAddr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x15).into();
    let frame = as_source("single", global, V6.of("far"), t.port());
    t.row(
        "a pod without IPv6 address doesn't send from one",
        [from_pod("single", &frame).drops(SpoofedAddress)],
    );
    let own = as_source("single", V4.of("single"), V4.of("far"), t.port());
    t.row(
        "a pod without IPv6 address sends from its IPv4 address",
        [from_pod("single", &own)],
    );
}
