//! Bypasses of the hook on the pod's device, by a pod with CAP_NET_ADMIN.
//!
//! Packets that an `ifb` sends on skip the classifiers of the next device
//! (`tc_skip_classify`, `tcf_action_exec` and `__netif_receive_skb_core`), and that
//! flag survives the veth. So a pod redirects its own egress to its own `ifb`. If the
//! redirecting filter matched the packet a second time, it would consume the flag. The
//! filter therefore matches every other packet, at random, and the attacker sends many.

use anyhow::Result;
use nix::net::if_::if_nametoindex;
use ringfence_ebpf::abi::{Endpoint, Tag};
use ringfence_tests::attack::{Outcome, datagram, pieces_v6};
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::frame::Extension;
use ringfence_tests::testnet::{Frames, Ns};

use crate::attack::Attack;
use crate::lab::{Lab, UDP};
use crate::own;

/// The number of packets sent. In all but one of 10,000 runs the filter matches at
/// least one of them on the first pass and not on the second.
pub(crate) const TRIES: usize = 32;
/// The number of pairs sent: both the first fragment and the one after it must get past
/// the hook.
const PAIRS: usize = 150;

/// `ld rand; jset #1, take, leave; take: ret -1; leave: ret 0` (SKF_AD_RANDOM).
const EVERY_OTHER: &str = "4,32 0 0 4294963256,69 0 1 1,6 0 0 4294967295,6 0 0 0";

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new(
        "a caller that is allowed, forged past the hook",
        |lab, v4| past(lab, v4, &Way::new("rogue", "friend", "victim")),
    )
    .counted_as(&["unseen"]),
    Attack::new("the same with that caller's tag", |lab, v4| {
        let tag = tag_of(lab, "friend")?;
        past(lab, v4, &Way::new("rogue", "friend", "victim").tagged(tag))
    })
    .counted_as(&["unseen"]),
    Attack::new("the same with the node's tag", |lab, v4| {
        past(
            lab,
            v4,
            &Way::new("rogue", "friend", "victim").tagged(Tag::NODE),
        )
    })
    .counted_as(&["unseen"]),
    Attack::new("a call that egress denies, past the hook", |lab, v4| {
        past(lab, v4, &Way::new("caged", "caged", "neighbour"))
    })
    .counted_as(&["unseen"]),
    Attack::new("the same with its own tag", |lab, v4| {
        let tag = tag_of(lab, "caged")?;
        past(
            lab,
            v4,
            &Way::new("caged", "caged", "neighbour").tagged(tag),
        )
    })
    .counted_as(&["unseen"]),
    Attack::new("the same to the outside", |lab, v4| {
        let tag = tag_of(lab, "caged")?;
        past(lab, v4, &Way::new("caged", "caged", "outside").tagged(tag))
    })
    .counted_as(&["unseen"]),
    Attack::new(
        "a pod under quarantine to the outside, past the hook",
        |lab, v4| past(lab, v4, &Way::new("cut", "cut", "outside")),
    )
    .counted_as(&["unseen"]),
    Attack::new(
        "an address of the outside, from a pod to the outside",
        |lab, v4| past(lab, v4, &Way::new("rogue", "elsewhere", "outside")),
    )
    .counted_as(&["unseen"]),
    Attack::new(
        "two pieces past the hook that the node puts together, with its tag",
        in_pieces,
    )
    .v6()
    .counted_as(&["unseen"]),
    Attack::new(
        "a caller's address, forged to the node itself",
        |lab, v4| past(lab, v4, &Way::new("rogue", "friend", "node")),
    )
    .on_a_bridge()
    .counted_as(&["unseen"]),
    Attack::honest("a call of who has the same devices and may", |lab, v4| {
        past(lab, v4, &Way::new("friend", "friend", "victim"))
    }),
];

/// Creates the attackers' devices; the node reassembles fragments.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    own::prepare(lab)?;
    for pod in ["rogue", "caged", "cut", "friend"] {
        detour(lab.ns(pod))?;
    }
    Ok(())
}

pub(crate) fn detour(ns: &Ns) -> Result<()> {
    ns.ip("link add ifb9 type ifb\nlink set ifb9 up\n")?;
    for device in ["eth0", "ifb9"] {
        ns.output("tc", &["qdisc", "add", "dev", device, "clsact"])?;
    }
    let filter = "filter add dev eth0 egress protocol all pref 1 bpf bytecode";
    let action = "classid 1:1 action mirred egress redirect dev ifb9";
    let words = filter.split(' ').chain([EVERY_OTHER]);
    let words: Vec<&str> = words.chain(action.split(' ')).collect();
    ns.output("tc", &words)?;
    Ok(())
}

/// An attempt by one pod to get past the hook.
struct Way {
    from: &'static str,
    shown: &'static str,
    to: &'static str,
    tag: Tag,
}

impl Way {
    /// A pod sends under the address of `shown` to `to`.
    const fn new(from: &'static str, shown: &'static str, to: &'static str) -> Self {
        let tag = Tag::NONE;
        Self {
            from,
            shown,
            to,
            tag,
        }
    }

    const fn tagged(self, tag: Tag) -> Self {
        Self { tag, ..self }
    }
}

/// Returns the tag that the agent gives a pod's packets.
pub(crate) fn tag_of(lab: &Lab, pod: &str) -> Result<Tag> {
    let device = lab.net.pod(pod)?.host_device.clone();
    let ifindex = lab.ns("node").run(|| if_nametoindex(device.as_str()))??;
    Ok(Tag::new(Endpoint::home_slot(ifindex), false))
}

/// Makes the pod's `ifb` write a tag: a classifier's class becomes `tc_index` if no
/// action follows (`tc_run`).
fn forge(ns: &Ns, tag: Tag) -> Result<()> {
    // No filter exists the first time.
    let _ = ns.output("tc", &["filter", "del", "dev", "ifb9", "egress"]);
    let program = format!("1,6 0 0 {}", 0x1_0000 | u32::from(tag.0));
    let words = "filter add dev ifb9 egress protocol all pref 1 bpf bytecode";
    let words: Vec<&str> = words.split(' ').chain([program.as_str()]).collect();
    ns.output("tc", &[&words[..], &["classid", "1:1"]].concat())?;
    Ok(())
}

fn past(lab: &mut Lab, v4: bool, way: &Way) -> Result<Outcome> {
    forge(lab.ns(way.from), way.tag)?;
    let marker = lab.marker();
    let shown = std::net::SocketAddr::new(lab.ip(way.shown, v4), lab.port());
    let frame = datagram(shown, lab.at(way.to, v4, UDP), &marker);
    let frame = lab.addressed(way.from, &frame)?;
    // The node answers to the owner of the address.
    let watched = if way.to == "node" { way.shown } else { way.to };
    sends(lab, way.from, watched, &marker, &[frame], TRIES)
}

fn sends(
    lab: &Lab,
    from: &str,
    to: &str,
    marker: &[u8],
    frames: &[Frame],
    times: usize,
) -> Result<Outcome> {
    let socket = Frames::open(lab.ns(from), "eth0")?;
    let bytes: Vec<Vec<u8>> = frames.iter().map(Frame::bytes).collect();
    lab.lands(to, marker, || {
        (0..times).try_for_each(|_| bytes.iter().try_for_each(|frame| socket.send(frame)))
    })
}

/// Reassembled packets lose their ingress device and keep the tag.
fn in_pieces(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    forge(lab.ns("rogue"), Tag::NODE)?;
    let (whole, marker) = own::long_one(lab, "friend", v4);
    let whole = lab.addressed("rogue", &whole)?;
    let headers = [Extension::options(own::DESTINATION, 0)];
    let pieces = pieces_v6(&whole, &headers, own::FIRST, 0x99);
    sends(lab, "rogue", "victim", &marker, &pieces, PAIRS)
}
