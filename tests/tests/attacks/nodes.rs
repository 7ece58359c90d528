//! Bypasses of egress policy: node addresses that the Node object doesn't list, and
//! Services that claim foreign addresses.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use ringfence_tests::attack::Outcome;
use ringfence_tests::testnet::{Dnat, call_tcp};
use serde_json::{Value, json};

use crate::attack::Attack;
use crate::lab::{Lab, Layout, TCP};

/// The NodePort that leads to the neighbour.
const NODE_PORT: u16 = 30080;
/// The node's addresses on a second interface, one per family.
const SECOND: [&str; 2] = ["192.168.88.2", "fd88::2"];

pub(crate) const ATTACKS: &[Attack] = &[
    Attack::new(
        "a NodePort at the listed address, to a pod that egress denies",
        listed,
    ),
    Attack::new("a NodePort at a second interface's address", second),
    Attack::new("a NodePort at the pods' IPv4 gateway", gateway).v4(),
    Attack::new("a NodePort at the bridge's IPv6 address", gateway)
        .on_a_bridge()
        .v6(),
    Attack::new("a NodePort at the bridge's link-local address", link_local)
        .on_a_bridge()
        .v6(),
    // No router forwards packets with a link-local source address.
    Attack::futile(
        "a NodePort at a routed pod's link-local gateway",
        link_local,
    )
    .routed()
    .v6(),
    Attack::honest("an unisolated pod's call of that NodePort", of_a_friend),
    Attack::honest(
        "a call of an address that a Service claims for another port",
        claimed,
    ),
    Attack::honest(
        "a call of a pod's address that a Service claims",
        claimed_pod,
    ),
    Attack::honest(
        "a call of an address of a Service that others serve",
        of_others,
    ),
];

/// Adds a second interface, a NodePort at every address of the node, and a tenant's
/// Service that claims foreign addresses.
pub(crate) fn prepare(lab: &mut Lab) -> Result<()> {
    let node = lab.ns("node");
    let [v4, v6] = SECOND;
    node.ip(&format!(
        "link add second type veth peer name peer2\n\
         addr add {v4}/24 dev second\naddr add {v6}/64 dev second nodad\n\
         link set second up\nlink set peer2 up\n"
    ))?;
    let mut rules = Vec::new();
    for v4 in [true, false] {
        let mut all = vec![
            lab.ip("node", v4),
            SECOND[usize::from(!v4)].parse()?,
            lab.net.mode().gateway(v4),
        ];
        if !v4 && lab.layout == Layout::Bridge {
            all.push(bridge_link_local(lab)?);
        }
        rules.extend(all.into_iter().map(|address| Dnat {
            address,
            protocol: "tcp",
            port: NODE_PORT,
            to: vec![lab.at("neighbour", v4, TCP)],
            masquerade: true,
        }));
    }
    lab.net.dnat(&rules)?;
    lab.write("services", &services(lab))
}

fn services(lab: &Lab) -> Vec<Value> {
    let service = |name: &str, labels: Value, spec: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": name, "labels": labels}, "spec": spec,
        })
    };
    let claim = |ips: Vec<IpAddr>, cluster: &str, port: u16| {
        json!({
            "selector": {"app": "rogue"}, "clusterIP": cluster, "externalIPs": ips,
            "ports": [{"port": port, "targetPort": port}],
        })
    };
    let both = |name: &str| [true, false].map(|v4| lab.ip(name, v4)).to_vec();
    let node_port = json!({
        "type": "NodePort", "selector": {"app": "neighbour"}, "clusterIP": "10.96.0.7",
        "ports": [{"port": TCP, "targetPort": TCP, "nodePort": NODE_PORT}],
    });
    vec![
        service("neighbour", json!({}), node_port),
        service(
            "claims",
            json!({}),
            claim([both("elsewhere"), both("friend")].concat(), "10.96.0.8", 9),
        ),
        service(
            "of-others",
            json!({"service.kubernetes.io/service-proxy-name": "another"}),
            claim(both("elsewhere"), "10.96.0.9", TCP),
        ),
    ]
}

fn bridge_link_local(lab: &Lab) -> Result<IpAddr> {
    let shown = lab.ns("node").output(
        "ip",
        &["-6", "-br", "addr", "show", "dev", "cni0", "scope", "link"],
    )?;
    let mut words = shown
        .split_whitespace()
        .filter_map(|word| word.strip_suffix("/64"));
    Ok(words.next().context("no link-local address")?.parse()?)
}

/// Calls the NodePort from a pod. Returns whether the neighbour answers.
fn calls(lab: &Lab, from: &str, at: IpAddr) -> Result<Outcome> {
    let scope = lab.ns(from).run(|| if_nametoindex("eth0"))??;
    let to = match at {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, NODE_PORT, 0, scope).into()
        }
        at => SocketAddr::new(at, NODE_PORT),
    };
    let banner = call_tcp(lab.ns(from), None, to, lab.patience())?;
    Ok(Outcome::arrives(banner.as_deref() == Ok("neighbour")))
}

fn listed(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    calls(lab, "caged", lab.ip("node", v4))
}

fn second(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    calls(lab, "caged", SECOND[usize::from(!v4)].parse()?)
}

/// 169.254.1.1 and fe80::1, the gateways of routed pods.
fn gateway(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    calls(lab, "caged", lab.net.mode().gateway(v4))
}

fn link_local(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    match lab.layout {
        Layout::Routed => calls(lab, "caged", lab.net.mode().gateway(v4)),
        Layout::Bridge => calls(lab, "caged", bridge_link_local(lab)?),
    }
}

fn of_a_friend(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    calls(lab, "friend", lab.ip("node", v4))
}

fn reaches(lab: &Lab, to: &str, v4: bool, banner: &str) -> Result<Outcome> {
    let seen = call_tcp(lab.ns("caged"), None, lab.at(to, v4, TCP), lab.patience())?;
    Ok(Outcome::arrives(seen.as_deref() == Ok(banner)))
}

fn claimed(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    reaches(lab, "elsewhere", v4, "outside")
}

fn claimed_pod(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    reaches(lab, "friend", v4, "friend")
}

/// Another proxy serves this Service; it is absent from the default proxy's tables.
fn of_others(lab: &mut Lab, v4: bool) -> Result<Outcome> {
    lab.write("services", &services(lab)[2..])?;
    if lab.is_guarded() {
        lab.agent.wait_for("shop/caged")?;
    }
    let outcome = reaches(lab, "elsewhere", v4, "outside");
    lab.write("services", &services(lab))?;
    if lab.is_guarded() {
        lab.agent.wait_for("shop/caged")?;
    }
    outcome
}
