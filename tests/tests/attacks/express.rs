//! Frames sent through AF_XDP bypass the pod's own stack. They leave the veth like all
//! others, so the hook on the other side sees them.

use std::net::SocketAddr;

use anyhow::Result;
use ringfence_tests::attack::{Express, Outcome, datagram, pieces_v4, pieces_v6};
use ringfence_tests::packets::Frame;

use crate::attack::Attack;
use crate::lab::{Lab, UDP};

/// The length of the two MACs in front of the tag.
const MACS: usize = 12;
/// The tag of VLAN 0: Linux strips it and delivers the payload.
const PRIORITY_TAG: [u8; 4] = [0x81, 0, 0, 0];
/// The offset at which datagrams are fragmented.
const CUT: usize = 64;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("AF_XDP: a friend's address", |lab, v4| {
        whole(lab, v4, ["rogue", "friend", "victim"], false)
    })
    .counted_as(&["spoofed_address"]),
    Attack::new("AF_XDP: a call that egress denies", |lab, v4| {
        whole(lab, v4, ["caged", "caged", "neighbour"], false)
    })
    .counted_as(&["policy"]),
    Attack::new("AF_XDP: a friend's call in a VLAN", |lab, v4| {
        whole(lab, v4, ["friend", "friend", "victim"], true)
    })
    .counted_as(&["vlan"]),
    Attack::new("AF_XDP: a later fragment alone", fragment).counted_as(&["fragment"]),
    Attack::honest("AF_XDP: a friend's call", |lab, v4| {
        whole(lab, v4, ["friend", "friend", "victim"], false)
    }),
];

/// Sends a datagram from one pod, under the second endpoint's address, to the third.
fn whole(lab: &mut Lab, v4: bool, ends: [&str; 3], tagged: bool) -> Result<Outcome> {
    let [from, shown, to] = ends;
    let marker = lab.marker();
    let shown = SocketAddr::new(lab.ip(shown, v4), lab.port());
    let frame = datagram(shown, lab.at(to, v4, UDP), &marker);
    sends(lab, [from, to], &frame, &marker, tagged)
}

fn sends(
    lab: &Lab,
    [from, to]: [&str; 2],
    frame: &Frame,
    marker: &[u8],
    tagged: bool,
) -> Result<Outcome> {
    let mut bytes = lab.addressed(from, frame)?.bytes();
    if tagged {
        bytes.splice(MACS..MACS, PRIORITY_TAG);
    }
    let mut device = Express::open(lab.ns(from), "eth0")?;
    lab.lands(to, marker, || device.send(&bytes))
}

fn fragment(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    let marker = lab.marker();
    let from = SocketAddr::new(lab.ip("caged", v4), lab.port());
    let payload = [&[0; 2 * CUT][..], &marker].concat();
    let whole = datagram(from, lab.at("neighbour", v4, UDP), &payload);
    let [_, later] = match v4 {
        true => pieces_v4(&whole, CUT, from.port()),
        false => pieces_v6(&whole, &[], CUT, from.port()),
    };
    sends(lab, ["caged", "neighbour"], &later, &marker, false)
}
