//! Neighbour and listener discovery: a pod may do it for itself alone, and
//! what isn't discovery gets nothing from looking like it.

use std::net::{IpAddr, Ipv6Addr};

use ringfence_ebpf::abi::Protocol;
use ringfence_ebpf::abi::Reason::{
    ExtensionHeader, Policy, Quarantine, RouterMessage, SpoofedAddress, SpoofedMac,
    SpoofedNeighbour,
};

use super::{Table, V6};
use crate::packets::Frame;
use crate::packets::fixture::{GATEWAY_MAC, PODS, Pod, find};
use crate::packets::frame::Extension;
use crate::packets::step::{from_pod, to_pod};

const SOLICIT: u8 = 135;
const ADVERT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// An option that says a MAC: source's is type 1, target's 2.
fn link_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

fn nonce() -> Vec<u8> {
    vec![14, 1, 1, 2, 3, 4, 5, 6]
}

/// A message of neighbour discovery; `rest` follows the first eight bytes.
fn discovery(pod: &Pod, source: IpAddr, kind: u8, rest: &[u8]) -> Frame {
    let rest = [&[0; 4], rest].concat();
    Frame::icmp(source, ALL_NODES.into(), [kind, 0], &rest).with(|f| {
        f.hops = 255;
        f.source_mac = pod.mac;
        f.destination_mac = [0x33, 0x33, 0, 0, 0, 1];
    })
}

/// A solicitation or advertisement of a target, with options.
fn about(pod: &Pod, kind: u8, target: IpAddr, options: &[u8]) -> Frame {
    discovery(
        pod,
        pod.link_local(),
        kind,
        &[octets(target).to_vec(), options.to_vec()].concat(),
    )
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn rows(t: &mut Table) {
    for pod in PODS {
        honest(t, &pod);
        start_up(t, &pod);
    }
    for name in ["plain", "caller", "cut"] {
        forged(t, &find(name));
        routers(t, &find(name));
    }
    incoming(t);
    disguised(t);
    odd(t);
}

fn honest(t: &mut Table, pod: &Pod) {
    let name = pod.name;
    let gateway = GATEWAY.into();
    let asks = about(pod, SOLICIT, gateway, &link_option(1, pod.mac));
    t.row(
        format!("{name} asks for its IPv6 gateway"),
        [from_pod(name, &asks)],
    );
    let with_nonce = about(
        pod,
        SOLICIT,
        gateway,
        &[link_option(1, pod.mac), nonce()].concat(),
    );
    t.row(
        format!("{name} asks with its MAC and a nonce"),
        [from_pod(name, &with_nonce)],
    );
    let unicast = asks.with(|f| f.destination = gateway);
    t.row(
        format!("{name} asks whether its gateway is still there"),
        [from_pod(name, &unicast)],
    );
    for own in pod
        .addresses()
        .into_iter()
        .filter(IpAddr::is_ipv6)
        .chain([pod.link_local()])
    {
        let tells = about(pod, ADVERT, own, &link_option(2, pod.mac));
        t.row(
            format!("{name} tells that it is {own}"),
            [from_pod(name, &tells)],
        );
        let bare = about(pod, ADVERT, own, &[]);
        t.row(
            format!("{name} tells that it is {own}, without its MAC"),
            [from_pod(name, &bare)],
        );
    }
    let solicits = discovery(pod, pod.link_local(), 133, &link_option(1, pod.mac));
    t.row(
        format!("{name} asks for routers"),
        [from_pod(name, &solicits)],
    );
}

/// What the kernel of a pod sends before the pod has a process.
fn start_up(t: &mut Table, pod: &Pod) {
    let name = pod.name;
    let nobody = Ipv6Addr::UNSPECIFIED.into();
    for (what, options) in [("", vec![]), (", with a nonce", nonce())] {
        let rest = [octets(pod.link_local()).to_vec(), options].concat();
        let probe = discovery(pod, nobody, SOLICIT, &rest);
        t.row(
            format!("{name} checks its new address for duplicates{what}"),
            [from_pod(name, &probe)],
        );
    }
    for source in [nobody, pod.link_local()] {
        for kind in [131, 143] {
            let report = report(pod, source, kind);
            t.row(
                format!("{name} joins groups from {source} by type {kind}"),
                [from_pod(name, &report)],
            );
        }
    }
}

/// A listener report, behind the router alert that it must have.
fn report(pod: &Pod, source: IpAddr, kind: u8) -> Frame {
    discovery(pod, source, kind, &[0; 16]).with(|f| {
        f.hops = 1;
        f.destination = REPORTS.into();
        f.extensions = vec![Extension(0, vec![0, 5, 2, 0, 0, 1, 0])];
    })
}

fn forged(t: &mut Table, pod: &Pod) {
    let name = pod.name;
    let lie = |t: &mut Table, what: &str, frame: &Frame| {
        t.row(
            format!("{name} {what}"),
            [from_pod(name, frame).drops(SpoofedNeighbour)],
        );
    };
    let (own, mac) = (pod.link_local(), link_option(2, GATEWAY_MAC));
    for (what, target) in [
        ("its gateway", GATEWAY.into()),
        ("another pod", V6.of("callee")),
        (
            "another pod's link-local address",
            find("callee").link_local(),
        ),
        ("the node", V6.of("node")),
        ("nobody", Ipv6Addr::UNSPECIFIED.into()),
    ] {
        lie(
            t,
            &format!("tells that it is {what}"),
            &about(pod, ADVERT, target, &link_option(2, pod.mac)),
        );
    }
    lie(
        t,
        "tells its own IPv6 address with another's MAC",
        &about(pod, ADVERT, own, &mac),
    );
    let second = [link_option(2, pod.mac), mac].concat();
    lie(
        t,
        "tells another's MAC after its own",
        &about(pod, ADVERT, own, &second),
    );
    let gateway = GATEWAY.into();
    lie(
        t,
        "asks with another's MAC",
        &about(pod, SOLICIT, gateway, &link_option(1, GATEWAY_MAC)),
    );
    let solicits = discovery(pod, own, 133, &link_option(1, GATEWAY_MAC));
    lie(t, "asks for routers with another's MAC", &solicits);
    for (what, options) in [
        ("an option of no length", vec![14, 0, 0, 0, 0, 0, 0, 0]),
        ("an option cut short", vec![1, 1, 2, 0]),
        (
            "an option that reaches too far",
            vec![1, 2, 2, 0, 0, 0, 0, 1],
        ),
        ("an option for routers", vec![5, 1, 0, 0, 0, 0, 5, 0]),
        ("three options", [nonce(), nonce(), nonce()].concat()),
    ] {
        lie(
            t,
            &format!("asks with {what}"),
            &about(pod, SOLICIT, gateway, &options),
        );
    }
    let short = about(pod, ADVERT, own, &[]).with(|f| f.payload.truncate(20));
    lie(t, "tells half an address", &short);
    let behind = about(pod, ADVERT, V6.of("callee"), &[]);
    let behind = behind.with(|f| f.extensions = vec![Extension::options(60, 0)]);
    lie(t, "hides a lie behind destination options", &behind);
    let outer = about(pod, ADVERT, own, &[]).with(|f| f.source_mac = GATEWAY_MAC);
    t.row(
        format!("{name} tells from another's MAC"),
        [from_pod(name, &outer).drops(SpoofedMac)],
    );
    let other = discovery(pod, find("callee").link_local(), ADVERT, &octets(own));
    t.row(
        format!("{name} tells as another"),
        [from_pod(name, &other).drops(SpoofedAddress)],
    );
}

fn routers(t: &mut Table, pod: &Pod) {
    let name = pod.name;
    for (kind, what) in [(134, "router advertisement"), (137, "redirect")] {
        let message = discovery(pod, pod.link_local(), kind, &[0; 32]);
        let row = format!("{name} sends no {what}");
        t.row(row, [from_pod(name, &message).drops(RouterMessage)]);
        let behind = message.with(|f| f.extensions = vec![Extension::options(60, 1); 3]);
        let row = format!("{name} sends no {what} behind destination options");
        t.row(row, [from_pod(name, &behind).drops(RouterMessage)]);
    }
    for (kind, what) in [
        (134, "router advertisement"),
        (ADVERT, "lie about a neighbour"),
    ] {
        let message = discovery(pod, pod.link_local(), kind, &octets(GATEWAY.into()));
        let behind = message.with(|f| f.extensions = vec![Extension::options(60, 0); 8]);
        t.row(
            format!("{name} sends no {what} behind more headers than are walked"),
            [from_pod(name, &behind)
                .drops(ExtensionHeader)
                .counted_as(Protocol::Other)],
        );
    }
}

fn incoming(t: &mut Table) {
    for (kind, what) in [
        (SOLICIT, "asked for"),
        (ADVERT, "told of neighbours"),
        (134, "told of routers"),
        (130, "asked for its groups"),
    ] {
        for name in ["callee", "cut"] {
            let mut gateway = find(name);
            gateway.mac = GATEWAY_MAC;
            let message = discovery(&gateway, GATEWAY.into(), kind, &octets(V6.of(name)));
            let message = message.with(|f| f.hops = if kind == 130 { 1 } else { 255 });
            t.row(format!("{name} is {what}"), [to_pod(name, &message)]);
        }
    }
}

/// Discovery is of the link: its hop limit says so (RFC 4861, 7.1; RFC 3810, 5).
fn disguised(t: &mut Table) {
    let smuggled = |from: &str, kind: u8, hops: u8| {
        Frame::icmp(V6.of(from), V6.of("stranger"), [kind, 0], &[0x5a; 28]).with(|f| f.hops = hops)
    };
    for kind in [131, 132, 143] {
        t.row(
            format!("a listener report (type {kind}) to somebody far away is none"),
            [from_pod("caller", &smuggled("caller", kind, 64)).drops(Policy)],
        );
        t.row(
            format!("a pod in quarantine sends no listener report (type {kind}) far away"),
            [from_pod("cut", &smuggled("cut", kind, 64)).drops(Quarantine)],
        );
    }
    for (name, reason) in [("caller", Policy), ("cut", Quarantine)] {
        // A router lowers 255 only on the way out. A Service's address has no neighbours.
        for to in ["stranger", "shown"] {
            for (kind, rest) in [(133, vec![]), (SOLICIT, octets(V6.of("callee")).to_vec())] {
                let far = discovery(&find(name), V6.of(name), kind, &[rest, nonce()].concat());
                let far = far.with(|f| f.destination = V6.of(to));
                t.row(
                    format!("{name} sends no discovery of type {kind} far away to {to}"),
                    [from_pod(name, &far).drops(reason).nameless()],
                );
            }
        }
    }
    for kind in [130, 131, 133, 134, SOLICIT, ADVERT, 143] {
        let from_afar = smuggled("callee", kind, 64).with(|f| {
            std::mem::swap(&mut f.source, &mut f.destination);
            std::mem::swap(&mut f.source_mac, &mut f.destination_mac);
        });
        t.row(
            format!("discovery from afar (type {kind}) is none"),
            [to_pod("callee", &from_afar).drops(Policy)],
        );
    }
}

fn odd(t: &mut Table) {
    for name in ["plain", "caller", "cut"] {
        let pod = find(name);
        let query = report(&pod, pod.link_local(), 130);
        t.row(
            format!("{name} asks nobody for groups: that is the router's to do"),
            [from_pod(name, &query).drops(RouterMessage)],
        );
    }
    for (name, reason) in [("caller", Policy), ("cut", Quarantine)] {
        let pod = find(name);
        let records = |n: usize| {
            report(&pod, pod.link_local(), 143).with(|f| f.payload.resize(8 + 20 * n, 0))
        };
        t.row(
            format!("{name} reports as many groups as a pod joins, and no more than that"),
            [
                from_pod(name, &records(8)),
                from_pod(name, &records(9)).drops(reason),
            ],
        );
        let long = report(&pod, pod.link_local(), 131).with(|f| f.payload.resize(25, 0));
        t.row(
            format!("{name} says nothing behind a report of one group"),
            [from_pod(name, &long).drops(reason)],
        );
    }
    let nobody: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    for name in ["plain", "caller", "single"] {
        let pod = find(name);
        let own = octets(pod.link_local());
        for (kind, what) in [(ADVERT, "tells"), (132, "leaves a group"), (128, "pings")] {
            let message = discovery(&pod, nobody, kind, &own);
            let row = format!("{name} {what} from the unspecified address");
            t.row(row, [from_pod(name, &message).drops(SpoofedAddress)]);
        }
        let report = report(&pod, find("callee").link_local(), 143);
        t.row(
            format!("{name} joins no group as another"),
            [from_pod(name, &report).drops(SpoofedAddress)],
        );
    }
}
