//! What one survey of the node and its pods shows about devices: pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ringfence_policy::index::PodKey;

use super::{Namespace, Sought};
use crate::datapath::Interface;
use crate::runtime::FoundBy;
use ringfence_netlink::Link;

/// The survey, indexed for lookups.
pub(super) struct View<'a> {
    host: BTreeMap<u32, &'a Link>,
    namespaces: &'a [Namespace],
    /// Namespace and device of each address.
    holders: BTreeMap<IpAddr, Vec<(usize, u32)>>,
}

impl<'a> View<'a> {
    pub(super) fn of(host: &'a [Link], namespaces: &'a [Namespace]) -> Self {
        let mut holders: BTreeMap<IpAddr, Vec<(usize, u32)>> = BTreeMap::new();
        for (n, namespace) in namespaces.iter().enumerate() {
            for address in &namespace.addresses {
                let places = holders.entry(address.address).or_default();
                places.push((n, address.link));
            }
        }
        Self {
            host: host.iter().map(|link| (link.index, link)).collect(),
            namespaces,
            holders,
        }
    }

    /// Returns the known devices that still belong to their pods, by index, under their current
    /// names.
    pub(super) fn held(&self, wanted: &[Sought], known: &[Interface]) -> BTreeMap<u32, Interface> {
        let pods: BTreeSet<&PodKey> = wanted.iter().map(|wanted| &wanted.pod).collect();
        let mut held = BTreeMap::new();
        for own in known.iter().filter(|own| pods.contains(&own.pod)) {
            let Some(device) = self.host.get(&own.ifindex) else {
                continue;
            };
            if device.kind == "veth" && !self.is_successor(device, own) {
                held.entry(own.ifindex).or_insert_with(|| Interface {
                    name: device.name.clone(),
                    ..own.clone()
                });
            }
        }
        held
    }

    /// Reports whether a device is a new one that reuses the index of a device that is gone.
    /// Indexes increase, but a device moved into this namespace keeps its own if that is free
    /// (`__dev_change_net_namespace`). A pod can change its MAC but can't rename the node's end,
    /// and a rename by the node doesn't change the MAC: only for a new device both differ.
    fn is_successor(&self, device: &Link, own: &Interface) -> bool {
        device.name != own.name
            && self
                .inside(device)
                .is_some_and(|inside| inside.mac != Some(own.mac))
    }

    /// Reports whether a pod's device may be given up for one of these candidates: only if it is
    /// visible that the device has none of the pod's addresses left.
    pub(super) fn may_leave(
        &self,
        own: &Interface,
        candidates: Result<&[Interface], &String>,
    ) -> bool {
        let device = self.host.get(&own.ifindex);
        let is_seen = device.is_some_and(|device| self.inside(device).is_some());
        is_seen && candidates.is_ok_and(|all| all.iter().all(|one| one.ifindex != own.ifindex))
    }

    /// Returns the pod's end of one of the node's devices, if its namespace could be entered.
    fn inside(&self, device: &Link) -> Option<&'a Link> {
        device.peer_netns?;
        let mut namespaces = self.namespaces.iter();
        let namespace = namespaces.find(|namespace| namespace.id == device.peer_netns)?;
        let mut links = namespace.links.iter();
        links.find(|link| Some(link.index) == device.peer && link.peer == Some(device.index))
    }

    /// Returns a warning for each pod whose MAC has changed since it was found.
    pub(super) fn changed_macs(&self, interfaces: &[Interface]) -> Vec<String> {
        let changed = interfaces.iter().filter_map(|own| {
            let inside = self.inside(self.host.get(&own.ifindex)?)?;
            let now = inside.mac.filter(|mac| *mac != own.mac)?;
            Some(format!(
                "{}: the MAC of its interface {} was {} and is now {}; only the first is its own",
                own.pod,
                inside.name.escape_debug(),
                Mac(own.mac),
                Mac(now),
            ))
        });
        changed.collect()
    }

    /// Returns the devices that lead to a pod's addresses, best first.
    pub(super) fn candidates(&self, wanted: &Sought) -> Result<Vec<Interface>, String> {
        if wanted.addresses.is_empty() {
            return Err("it has no address yet".into());
        }
        let mut places: BTreeMap<(usize, u32), usize> = BTreeMap::new();
        for address in &wanted.addresses {
            for place in self.holders.get(address).into_iter().flatten() {
                *places.entry(*place).or_default() += 1;
            }
        }
        let (mut found, mut reason) = (Vec::new(), None);
        for (&(n, link), &matched) in &places {
            match host_side(&self.namespaces[n], link, &self.host) {
                Ok((device, mac)) => {
                    let interface = Interface {
                        pod: wanted.pod.clone(),
                        ifindex: device.index,
                        name: device.name.clone(),
                        mac,
                        by: FoundBy::Claim,
                    };
                    found.push((matched, interface));
                }
                Err(why) => reason = Some(why),
            }
        }
        if found.is_empty() {
            return Err(reason.unwrap_or_else(|| nowhere(wanted)));
        }
        // A namespace that is being torn down may still have an address that was given to a newer
        // pod, and newer devices mostly have higher indexes.
        found.sort_by_key(|(matched, interface)| Reverse((*matched, interface.ifindex)));
        Ok(found.into_iter().map(|(_, interface)| interface).collect())
    }
}

fn nowhere(wanted: &Sought) -> String {
    let addresses: Vec<_> = wanted.addresses.iter().map(IpAddr::to_string).collect();
    format!(
        "no network namespace has its address {}",
        addresses.join(" or ")
    )
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Returns the node's end of a pod's device, and the pod's MAC.
fn host_side<'a>(
    namespace: &Namespace,
    index: u32,
    host: &BTreeMap<u32, &'a Link>,
) -> Result<(&'a Link, [u8; 6]), String> {
    let path = namespace.path.display();
    let link = namespace
        .links
        .iter()
        .find(|link| link.index == index)
        .ok_or_else(|| format!("its device went while it was looked at ({path})"))?;
    // A pod chooses the names of its own devices, and the name may be printed on a terminal.
    let name = link.name.escape_debug();
    if link.kind != "veth" {
        let kind = if link.kind.is_empty() {
            "physical"
        } else {
            &link.kind
        };
        return Err(format!(
            "its interface {name} is {kind}, not veth: it has no host side"
        ));
    }
    let mac = link
        .mac
        .ok_or_else(|| format!("its interface {name} has no MAC"))?;
    let elsewhere = || format!("the other end of its veth {name} isn't in the agent's namespace");
    let device = link
        .peer
        .and_then(|peer| host.get(&peer))
        .ok_or_else(elsewhere)?;
    // Indexes are only unique within a namespace, so those of an unrelated pair may match by
    // chance. The device must be a veth whose other end is this device in this namespace.
    let leads_here = device.kind == "veth"
        && device.peer == Some(index)
        && device.peer_netns.is_some()
        && device.peer_netns == namespace.id;
    if leads_here {
        Ok((device, mac))
    } else {
        Err(elsewhere())
    }
}
