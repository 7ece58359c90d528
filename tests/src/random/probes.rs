//! What to ask of a cluster: packets at the edges of what its objects say.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::{Dice, NODE};
use crate::oracle::{End, Probe};

const PER_CLUSTER: usize = 40;

/// Packets between any two ends; nearly all have an endpoint of the judged node.
pub(super) fn probes(dice: &mut Dice, objects: &[Value]) -> Vec<Probe> {
    let pods = pod_ends(objects, |_| true);
    let local = pod_ends(objects, |pod| pod["spec"]["nodeName"] == NODE);
    let others = other_ends(dice, objects);
    let ports = ports(objects);
    let mut all = BTreeSet::new();
    while all.len() < PER_CLUSTER {
        let near = if dice.chance(95) && !local.is_empty() {
            &local
        } else if pods.is_empty() {
            &others
        } else {
            &pods
        };
        let far = if dice.chance(60) { &pods } else { &others };
        let one = dice.choose(near);
        let same_family = |end: &&End| end.address.is_ipv4() == one.address.is_ipv4();
        let far: Vec<&End> = far.iter().filter(same_family).collect();
        if far.is_empty() {
            continue;
        }
        let other = *dice.choose(&far);
        let (from, to) = if dice.chance(50) {
            (one, other)
        } else {
            (other, one)
        };
        let declared = declared(objects, to);
        let (protocol, port) = if !declared.is_empty() && dice.chance(25) {
            *dice.choose(&declared)
        } else {
            traffic(dice, &ports, one.address.is_ipv4())
        };
        all.insert(Probe {
            from: from.clone(),
            to: to.clone(),
            protocol,
            port,
        });
    }
    all.into_iter().collect()
}

fn traffic(dice: &mut Dice, ports: &[u16], four: bool) -> (u8, u16) {
    match dice.below(20) {
        0..10 => (6, *dice.choose(ports)),
        10..14 => (17, *dice.choose(ports)),
        14..16 => (132, *dice.choose(ports)),
        16..18 => (if four { 1 } else { 58 }, 0),
        _ => (47, 0),
    }
}

/// What the called pod declares: the only traffic that names of ports match.
fn declared(objects: &[Value], called: &End) -> Vec<(u8, u16)> {
    let is_it = |o: &&Value| {
        let meta = &o["metadata"];
        let named = called.pod.as_ref();
        o["kind"] == "Pod"
            && named
                .is_some_and(|(space, name)| meta["namespace"] == **space && meta["name"] == **name)
    };
    let containers = objects
        .iter()
        .filter(is_it)
        .flat_map(|pod| pod["spec"]["containers"].as_array());
    let ports = containers.flatten().filter_map(|c| c["ports"].as_array());
    let known = |port: &Value| {
        let protocol = match port["protocol"].as_str() {
            None | Some("TCP") => 6,
            Some("UDP") => 17,
            _ => 132,
        };
        Some((
            protocol,
            u16::try_from(port["containerPort"].as_u64()?).ok()?,
        ))
    };
    ports.flatten().filter_map(known).collect()
}

fn pod_ends(objects: &[Value], wanted: impl Fn(&Value) -> bool) -> Vec<End> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let pods = objects.iter().filter(|o| o["kind"] == "Pod" && wanted(o));
    pods.flat_map(|pod| {
        let meta = &pod["metadata"];
        let named = (text(&meta["namespace"]), text(&meta["name"]));
        let shown = pod["status"]["podIPs"].as_array().into_iter().flatten();
        shown.filter_map(move |ip| {
            Some(End {
                address: ip["ip"].as_str()?.parse().ok()?,
                pod: Some(named.clone()),
            })
        })
    })
    .collect()
}

/// Returns addresses of nodes and Services, at the edges of all CIDRs, and outside of the
/// cluster.
fn other_ends(dice: &mut Dice, objects: &[Value]) -> Vec<End> {
    let mut found = BTreeSet::new();
    for object in objects {
        strings(object, &mut |text| {
            found.extend(text.parse::<IpAddr>().ok());
            found.extend(edges(text));
        });
    }
    for text in [
        "198.51.100.1",
        "255.255.255.255",
        "169.254.20.10",
        "2001:db8:ffff::1",
        "::1:2",
        "fe80::1",
    ] {
        found.extend(text.parse::<IpAddr>().ok());
    }
    found.insert(Ipv4Addr::from(dice.bits() as u32).into());
    found.insert(Ipv6Addr::from(u128::from(dice.bits()) << 64 | u128::from(dice.bits())).into());
    let services = objects.iter().filter(|o| o["kind"] == "Service");
    let ips = services.filter_map(|s| s["spec"]["clusterIPs"].as_array());
    let ips = ips.flatten().filter_map(|ip| ip.as_str()?.parse().ok());
    // A Service's address is one of many edges, and has rules of its own.
    let often = ips.flat_map(|ip| [ip; 6]);
    let end = |address| End { address, pod: None };
    found.into_iter().chain(often).map(end).collect()
}

fn strings(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, each)),
        Value::Object(map) => map.values().for_each(|item| strings(item, each)),
        _ => {}
    }
}

/// First and last address of a CIDR, and their neighbours.
fn edges(text: &str) -> Vec<IpAddr> {
    let Some((address, length)) = text.split_once('/') else {
        return vec![];
    };
    let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u32>()) else {
        return vec![];
    };
    match address {
        IpAddr::V4(a) if length <= 32 => {
            let size = u32::MAX.checked_shr(length).unwrap_or(0);
            let (first, last) = (u32::from(a) & !size, u32::from(a) | size);
            let all = [
                first.wrapping_sub(1),
                first,
                first | 1 & size,
                last,
                last.wrapping_add(1),
            ];
            all.map(|a| Ipv4Addr::from(a).into()).to_vec()
        }
        IpAddr::V6(a) if length <= 128 => {
            let size = u128::MAX.checked_shr(length).unwrap_or(0);
            let (first, last) = (u128::from(a) & !size, u128::from(a) | size);
            let all = [
                first.wrapping_sub(1),
                first,
                first | 1 & size,
                last,
                last.wrapping_add(1),
            ];
            all.map(|a| Ipv6Addr::from(a).into()).to_vec()
        }
        _ => vec![],
    }
}

/// Every port that an object names, its neighbours, and the corners of the space.
fn ports(objects: &[Value]) -> Vec<u16> {
    // Common ones count more often: a rule's port is likelier asked than its edge.
    let mut all = vec![
        1, 65535, 255, 257, 80, 80, 80, 8080, 8080, 53, 53, 53, 443, 9090,
    ];
    let mut named = BTreeSet::new();
    for object in objects {
        numbers(object, &mut named);
    }
    for port in named {
        all.extend([
            port.saturating_sub(1).max(1),
            port,
            port,
            port.saturating_add(1),
        ]);
    }
    all
}

fn numbers(value: &Value, into: &mut BTreeSet<u16>) {
    match value {
        Value::Number(n) => into.extend(n.as_u64().and_then(|n| u16::try_from(n).ok())),
        Value::Array(items) => items.iter().for_each(|item| numbers(item, into)),
        Value::Object(map) => {
            // A priority is no port.
            let ports = map.iter().filter(|(key, _)| *key != "priority");
            ports.for_each(|(_, item)| numbers(item, into));
        }
        _ => {}
    }
}
