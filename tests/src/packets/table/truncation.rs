//! Frames that end early, at every byte.

use ringfence_ebpf::abi::Protocol::{Other, Tcp, Udp};
use ringfence_ebpf::abi::Reason::{Malformed, NotAddressed, SpoofedMac};

use super::flag::SYN;
use super::{Table, V4, V6};
use crate::packets::Frame;
use crate::packets::step::{from_pod, to_pod};

/// Where IP begins, and where what follows it does.
const IP: usize = 14;
const AFTER_V4: usize = IP + 20;
const AFTER_V6: usize = IP + 40;

pub(super) fn rows(t: &mut Table) {
    let port = t.port();
    let syn = Frame::tcp((V4.of("caller"), port), (V4.of("callee"), 8080), SYN);
    for end in 0..syn.bytes().len() {
        let step = from_pod("caller", &syn).spoilt(|b| b.truncate(end));
        let step = match end {
            0..IP => step.drops(SpoofedMac).nameless().counted_as(Other),
            IP..AFTER_V4 => step.drops(Malformed).nameless().counted_as(Other),
            _ => step.drops(Malformed).counted_as(Tcp),
        };
        t.row(
            format!("TCP over IPv4 that ends at byte {end} is malformed"),
            [step],
        );
    }
    let udp = Frame::udp((V6.of("friend"), port), (V6.of("callee"), 5353));
    for end in 0..udp.bytes().len() {
        let step = to_pod("callee", &udp)
            .spoilt(|b| b.truncate(end))
            .counted_as(Other);
        let step = step.drops(if end < IP { NotAddressed } else { Malformed });
        t.row(
            format!("UDP over IPv6 that ends at byte {end} is malformed"),
            [step],
        );
    }
    honest(t, &syn, &udp);
}

/// The same, with an IP header that knows.
fn honest(t: &mut Table, syn: &Frame, udp: &Frame) {
    for end in AFTER_V4..syn.bytes().len() {
        let claim = ((end - IP) as u16).to_be_bytes();
        let step = from_pod("caller", syn).spoilt(|b| {
            b.truncate(end);
            b[16..18].copy_from_slice(&claim);
        });
        t.row(
            format!(
                "a TCP header of {} bytes is malformed (IPv4)",
                end - AFTER_V4
            ),
            [step.drops(Malformed)],
        );
    }
    for len in 0..8 {
        let step = to_pod("callee", udp).spoilt(|b| {
            b.truncate(AFTER_V6 + len);
            b[18..20].copy_from_slice(&(len as u16).to_be_bytes());
        });
        t.row(
            format!("a UDP header of {len} bytes is malformed (IPv6)"),
            [step.drops(Malformed).counted_as(Udp)],
        );
    }
}
