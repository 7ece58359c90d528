//! Two nodes and a wire between them: a hostile pod on the other node, and an attacker
//! on the wire. Each node has its own agent.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use ringfence_ebpf::abi::Tag;
use ringfence_tests::agent::Agent;
use ringfence_tests::attack::{Outcome, datagram, pieces_v6, vxlan};
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::frame::Extension;
use ringfence_tests::testnet::{Frames, Net};
use serde_json::json;

use crate::attack::Attack;
use crate::lab::{Lab, UDP};
use crate::{own, past};

const NODE: &str = "node-2";
/// Both nodes' ends of the wire, and the tunnel's VNI and port.
const HERE: [&str; 2] = ["172.30.0.1", "fd30::1"];
const THERE: [&str; 2] = ["172.30.0.2", "fd30::2"];
const NETWORK: u32 = 7;
const PORT: u16 = 8472;
/// Pods of the other node. The victim accepts calls from `ally` only. Packets of
/// `evader` get past the hook of its node, every other one at random.
const PODS: [(&str, &str, u8); 3] = [
    ("mallory", "mallory", 21),
    ("ally", "friend", 22),
    ("evader", "evader", 23),
];

const OUTSIDE: &[&str] = &["spoofed_from_outside"];
const POLICY: &[&str] = &["policy"];

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new("the wire: a friend's address", |lab, v4| {
        let friend = lab.ip("friend", v4);
        by_wire(lab, v4, friend, Tag::NONE)
    })
    .counted_as(OUTSIDE),
    Attack::new(
        "the wire: a stranger with a friend's tag and the mark of what was seen",
        |lab, v4| {
            let tag = past::tag_of(lab, "friend")?;
            by_wire(lab, v4, pod(v4, 21), tag)
        },
    )
    .counted_as(POLICY),
    Attack::new(
        "the wire: a stranger with the node's tag and that mark",
        |lab, v4| by_wire(lab, v4, pod(v4, 21), Tag::NODE),
    )
    .counted_as(POLICY),
    Attack::new(
        "the wire: the same in two pieces that lose their device",
        pieces,
    )
    .v6()
    .counted_as(&["policy", "fragment"]),
    Attack::new("the tunnel: a friend's address", |lab, v4| {
        let friend = lab.ip("friend", v4);
        by_tunnel(lab, v4, friend, Tag::NONE)
    })
    .counted_as(OUTSIDE),
    Attack::new("the tunnel: a stranger with the node's tag", |lab, v4| {
        by_tunnel(lab, v4, pod(v4, 21), Tag::NODE)
    })
    .counted_as(POLICY),
    Attack::new(
        "the other node's pod: a call that policy denies",
        |lab, v4| by_pod(lab, v4, "mallory", pod(v4, 21), 1),
    )
    .counted_as(POLICY),
    Attack::new(
        "the other node's pod: a pod's address of this node",
        |lab, v4| {
            let friend = lab.ip("friend", v4);
            by_pod(lab, v4, "mallory", friend, 1)
        },
    )
    .counted_as(&["spoofed_address"]),
    Attack::new("the other node's pod: an ally's address", |lab, v4| {
        by_pod(lab, v4, "mallory", pod(v4, 22), 1)
    })
    .counted_as(&["spoofed_address"]),
    Attack::new("the same past its own node's hook", |lab, v4| {
        by_pod(lab, v4, "evader", pod(v4, 22), past::TRIES)
    })
    .counted_as(&["unseen"]),
    Attack::new(
        "the other node's pod: an ally's packet into this node's tunnel",
        |lab, v4| inject(lab, v4, "mallory", 1),
    )
    .counted_as(&["tunnel"]),
    Attack::new("the same packed past its own node's hook", |lab, v4| {
        inject(lab, v4, "evader", past::TRIES)
    })
    .counted_as(&["unseen"]),
    Attack::honest("an allowed call of the other node's pod", |lab, v4| {
        by_pod(lab, v4, "ally", pod(v4, 22), 1)
    }),
    Attack::honest("an allowed call of it through the tunnel", |lab, v4| {
        by_tunnel(lab, v4, pod(v4, 22), Tag::NONE)
    }),
];

/// The other node, with pods and an agent. Fields are dropped in the order of their declaration.
pub(crate) struct Other {
    pub(crate) agent: Agent,
    net: Net,
    /// The tag on every packet sent on the wire.
    tag: Tag,
}

impl Other {
    /// Starts its agent.
    pub(crate) fn guard(&mut self) -> Result<()> {
        self.agent
            .start(&mut self.net, &["shop/mallory", "shop/ally", "shop/evader"])
    }

    /// Stops its agent.
    pub(crate) fn unguard(&mut self) -> Result<()> {
        self.agent.stop(&mut self.net)?;
        self.agent.run_on_node(&["uninstall"]).map(drop)
    }
}

fn pod(v4: bool, number: u8) -> IpAddr {
    match v4 {
        true => [10, 245, 0, number].into(),
        false => [0xfd00, 0x10, 0x245, 0, 0, 0, 0, number.into()].into(),
    }
}

/// Creates the other node, the wire and a tunnel over it. Each side's packets to the
/// other side's pods use the wire. The node reassembles fragments.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    own::prepare(lab)?;
    let mut builder = Net::builder().outside([]);
    for (name, _, number) in PODS {
        builder = builder.pod(name, [pod(true, number), pod(false, number)]);
    }
    let net = builder.build()?;
    let (here, there) = (lab.ns("node"), net.node());
    here.ip(&format!(
        "link add wire0 type veth peer name wire0 netns {}\n{}",
        there.path().display(),
        end_of_wire(HERE, THERE, [["10.245.0.0/24", "fd00:10:245::/64"]])
    ))?;
    let pods = [["10.244.0.0/24", "fd00:10:244::/64"]];
    there.ip(&end_of_wire(THERE, HERE, pods))?;
    past::detour(&net.pod("evader")?.ns)?;
    there.output("tc", &["qdisc", "add", "dev", "wire0", "clsact"])?;
    let pods = PODS.map(|(name, app, number)| {
        let ips = [pod(true, number), pod(false, number)];
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": name, "uid": name, "labels": {"app": app}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "example.com/x"}]},
            "status": {"phase": "Running", "podIP": ips[0], "podIPs": ips.map(|ip| json!({"ip": ip}))},
        })
    });
    lab.write("node-2", &pods)?;
    lab.other = Some(Other {
        agent: Agent::new(&net, NODE, &lab.manifests),
        net,
        tag: Tag::NONE,
    });
    Ok(())
}

fn end_of_wire(own: [&str; 2], far: [&str; 2], pods: [[&str; 2]; 1]) -> String {
    let [[v4, v6]] = pods;
    format!(
        "addr add {}/24 dev wire0\naddr add {}/64 dev wire0 nodad\nlink set wire0 up\n\
         route add {v4} via {} dev wire0\nroute add {v6} via {} dev wire0\n\
         link add vx0 type vxlan id {NETWORK} dstport {PORT} remote {} dev wire0\n\
         link set vx0 up\n",
        own[0], own[1], far[0], far[1], far[0]
    )
}

fn other(lab: &Lab) -> Result<&Other> {
    lab.other
        .as_ref()
        .ok_or_else(|| anyhow::anyhow!("no other node"))
}

/// Makes all packets on the wire carry a tag, and the mark that this node sets on
/// packets it has seen. A clsact filter's class becomes `tc_index`, which a veth keeps;
/// it clears the mark. Real wires carry neither.
fn tagged(lab: &mut Lab, tag: Tag) -> Result<()> {
    let other = lab.other.as_mut().context("no other node")?;
    if other.tag == tag {
        return Ok(());
    }
    other.tag = tag;
    let there = other.net.node();
    // No filter exists the first time.
    let _ = there.output("tc", &["filter", "del", "dev", "wire0", "egress"]);
    let _ = there.output("nft", &["delete table netdev wire"]);
    if tag == Tag::NONE {
        return Ok(());
    }
    let program = format!("1,6 0 0 {}", 0x1_0000 | u32::from(tag.0));
    let words = "filter add dev wire0 egress protocol all pref 9 bpf bytecode";
    let words: Vec<&str> = words.split(' ').chain([program.as_str()]).collect();
    there.output("tc", &[&words[..], &["classid", "1:1"]].concat())?;
    let mark = "table netdev wire {\nchain out {\n\
                type filter hook egress device wire0 priority 0\nmeta mark set 0x1000\n}\n}";
    there.output("nft", &[mark]).map(drop)
}

/// Builds a datagram to the victim with the given source address.
fn to_victim(lab: &mut Lab, v4: bool, shown: IpAddr) -> (Frame, [u8; 8]) {
    let (marker, from) = (lab.marker(), SocketAddr::new(shown, lab.port()));
    (datagram(from, lab.at("victim", v4, UDP), &marker), marker)
}

/// Sends frames on the wire to this node.
fn on_wire(lab: &Lab, frames: &[Frame]) -> Result<()> {
    let wire = Frames::open(other(lab)?.net.node(), "wire0")?;
    let ends = (wire.mac().unwrap_or_default(), lab.mac("node", "wire0")?);
    frames.iter().try_for_each(|frame| {
        let frame = frame.with(|f| (f.source_mac, f.destination_mac) = ends);
        wire.send(&frame.bytes())
    })
}

fn by_wire(lab: &mut Lab, v4: bool, shown: IpAddr, tag: Tag) -> Result<Outcome> {
    tagged(lab, tag)?;
    let (frame, marker) = to_victim(lab, v4, shown);
    lab.lands("victim", &marker, || on_wire(lab, &[frame]))
}

fn pieces(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    tagged(lab, Tag::NODE)?;
    let (whole, marker) = own::long_one(lab, "friend", v4);
    let whole = whole.with(|f| f.source = pod(v4, 21));
    let headers = [Extension::options(own::DESTINATION, 0)];
    let pieces = pieces_v6(&whole, &headers, own::FIRST, 0x55);
    lab.lands("victim", &marker, || on_wire(lab, &pieces))
}

/// Returns the frame encapsulated as this node expects it.
fn packed(lab: &Lab, inner: &Frame, from: SocketAddr) -> Result<Frame> {
    let ends = ([2, 0, 0, 0, 9, 9], lab.mac("node", "vx0")?);
    let inner = inner.with(|f| (f.source_mac, f.destination_mac) = ends);
    let to = SocketAddr::new(HERE[0].parse()?, PORT);
    Ok(datagram(from, to, &vxlan(NETWORK, &inner.bytes())))
}

fn by_tunnel(lab: &mut Lab, v4: bool, shown: IpAddr, tag: Tag) -> Result<Outcome> {
    tagged(lab, tag)?;
    let (inner, marker) = to_victim(lab, v4, shown);
    let outer = packed(lab, &inner, SocketAddr::new(THERE[0].parse()?, 4000))?;
    lab.lands("victim", &marker, || on_wire(lab, &[outer]))
}

/// Sends from a pod of the other node, which routes the packets here.
fn by_pod(lab: &mut Lab, v4: bool, who: &str, shown: IpAddr, times: usize) -> Result<Outcome> {
    tagged(lab, Tag::NONE)?;
    let (frame, marker) = to_victim(lab, v4, shown);
    lab.lands("victim", &marker, || from_pod(lab, who, &frame, times))
}

fn from_pod(lab: &Lab, who: &str, frame: &Frame, times: usize) -> Result<()> {
    let pod = other(lab)?.net.pod(who)?;
    let ends = (pod.mac, pod.host_mac);
    let frame = frame.with(|f| (f.source_mac, f.destination_mac) = ends);
    let device = Frames::open(&pod.ns, "eth0")?;
    (0..times).try_for_each(|_| device.send(&frame.bytes()))
}

fn inject(lab: &mut Lab, v4: bool, who: &str, times: usize) -> Result<Outcome> {
    tagged(lab, Tag::NONE)?;
    let (inner, marker) = to_victim(lab, v4, pod(v4, 22));
    let own = other(lab)?
        .net
        .pod(who)?
        .address(true)
        .context("no address")?;
    let outer = packed(lab, &inner, SocketAddr::new(own, 4000))?;
    lab.lands("victim", &marker, || from_pod(lab, who, &outer, times))
}
