//! Decides which device belongs to which pod according to the pod runtime's records: pure.
//!
//! A record names the device that the plugin created on the node's side. A pod can move its own
//! end elsewhere, but can't rename or move the node's end.

use std::collections::{BTreeMap, BTreeSet};

use super::{Discovery, Exempt, Sandbox as Known, Sought, Unguarded};
use crate::datapath::{Interface, Others, Stranger};
use crate::runtime::Sandbox;
use ringfence_netlink::Link;

/// State of the namespace that a sandbox was created with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NamespaceState {
    /// Its file no longer names a namespace: the sandbox is gone, whatever the record says.
    Gone,
    /// The record names no file that can be checked.
    Unnamed,
    /// It exists; the id is present if a device of the node leads into it.
    There(Option<i32>),
}

/// What the lack of a device implies for the sandbox, and the reason for it.
type Why = (Known, String);

/// A sandbox and the state of its namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// The sandbox according to the runtime.
    pub sandbox: Sandbox,
    /// The state of its namespace according to the kernel.
    pub place: NamespaceState,
}

/// Everything known on the node's side.
pub struct Seen<'a> {
    /// The node's devices.
    pub host: &'a [Link],
    /// Sandboxes, the newest last.
    pub sandboxes: &'a [Located],
    /// Ids of the namespaces named by runtimes.
    pub namespaces: &'a BTreeSet<i32>,
    /// Whether some of the named namespaces couldn't be checked.
    pub partial: bool,
    /// The interfaces bound by the last call.
    pub known: &'a [Interface],
    /// Returns the MAC of the other end of a device, used if no record has it.
    pub mac: &'a dyn Fn(&Link) -> Option<[u8; 6]>,
}

impl<'a> Seen<'a> {
    /// Binds each wanted pod to its device; any other device that leads into a sandbox is a
    /// stranger.
    pub fn bind(&self, wanted: &[Sought], exempt: &Exempt) -> Discovery {
        let devices = self.devices();
        let mut discovery = Discovery::default();
        for pod in wanted {
            match self.interface(pod, &devices) {
                Ok(interface) => discovery.interfaces.push(interface),
                Err((sandbox, reason)) => discovery.unguarded.push(Unguarded {
                    pod: pod.pod.clone(),
                    reason,
                    sandbox,
                }),
            }
        }
        discovery.interfaces.sort_by(|a, b| a.pod.cmp(&b.pod));
        self.part_from_doubles(&mut discovery);
        discovery.others = Others {
            strangers: self.strangers(&devices, &discovery.interfaces, exempt),
            judged: Some(self.judged()),
        };
        discovery
    }

    /// Returns the device of each sandbox that exists, or why it has none.
    fn devices(&self) -> Vec<Result<&'a Link, Why>> {
        let exact: Vec<Option<&'a Link>> =
            self.sandboxes.iter().map(|one| self.exact(one)).collect();
        let taken: BTreeSet<u32> = exact.iter().flatten().map(|link| link.index).collect();
        let each = self.sandboxes.iter().zip(&exact);
        each.map(|(one, exact)| match (one.place, exact) {
            (NamespaceState::Gone, _) => Err((Known::Gone, "its sandbox has gone".to_owned())),
            (_, Some(link)) => Ok(*link),
            (..) => self.near(one, &taken),
        })
        .collect()
    }

    /// Returns the device that is on record and also leads into the sandbox.
    fn exact(&self, one: &Located) -> Option<&'a Link> {
        let NamespaceState::There(Some(id)) = one.place else {
            return None;
        };
        self.named(&one.sandbox.devices)
            .find(|link| link.peer_netns == Some(id))
    }

    /// Returns a device supported by only one of the two: by the record, if the pod has moved its
    /// end elsewhere or its namespace can't be checked; or by the kernel, if the plugin doesn't
    /// record devices.
    fn near(&self, one: &Located, taken: &BTreeSet<u32>) -> Result<&'a Link, Why> {
        let named = self.named(&one.sandbox.devices);
        let named = named.filter(|link| !taken.contains(&link.index));
        // Names are reused: a device that leads into another sandbox belongs to that sandbox.
        let elsewhere = |id: &i32| self.namespaces.contains(id);
        let is_there = one.place != NamespaceState::Unnamed;
        let mut named =
            named.filter(|link| !is_there || !link.peer_netns.as_ref().is_some_and(elsewhere));
        if let Some(link) = named.next() {
            return Ok(link);
        }
        let none = || {
            let none = "no device of the node leads into its sandbox";
            (Known::NotFound, none.to_owned())
        };
        let NamespaceState::There(Some(id)) = one.place else {
            return Err(none());
        };
        let leads = |link: &&Link| {
            let is_other = one.sandbox.others.contains(&link.name);
            link.peer_netns == Some(id) && !is_other && !taken.contains(&link.index)
        };
        let mut leading = self.veths().filter(leads);
        match (leading.next(), leading.next()) {
            (Some(link), None) => Ok(link),
            (None, _) => Err(none()),
            (Some(a), Some(b)) => Err((
                Known::There,
                format!(
                    "its sandbox has several devices ({}, {}), and its network plugin recorded \
                     none of them",
                    a.name, b.name
                ),
            )),
        }
    }

    fn veths(&self) -> impl Iterator<Item = &'a Link> + use<'a> {
        let host = self.host.iter();
        host.filter(|link| link.kind == "veth" && link.peer_netns.is_some())
    }

    fn named<'s>(&self, names: &'s [String]) -> impl Iterator<Item = &'a Link> + use<'a, 's> {
        self.veths().filter(|link| names.contains(&link.name))
    }

    fn interface(&self, pod: &Sought, devices: &[Result<&Link, Why>]) -> Result<Interface, Why> {
        let own = self.sandboxes.iter().zip(devices).rev();
        let mut own = own.filter(|(one, _)| is_of(&one.sandbox, pod));
        let before = self.known.iter().find(|known| known.pod == pod.pod);
        let reason = match own.next() {
            Some((one, Ok(link))) => {
                let before = before.filter(|known| known.ifindex == link.index);
                let mac = before.map(|known| known.mac).or(one.sandbox.mac);
                let mac = mac.or_else(|| (self.mac)(link));
                return Ok(Interface {
                    pod: pod.pod.clone(),
                    ifindex: link.index,
                    name: link.name.clone(),
                    mac: mac.ok_or_else(|| {
                        let why = format!("the other end of {} has no MAC", link.name);
                        (Known::There, why)
                    })?,
                    by: one.sandbox.by,
                });
            }
            Some((_, Err(reason))) => reason.clone(),
            None => {
                let none = "the pod runtime has no record of its sandbox (yet)";
                (Known::NotFound, none.to_owned())
            }
        };
        // A record may be removed before the device, and a runtime may stop answering.
        let kept = before.and_then(|known| {
            let link = self.veths().find(|link| link.index == known.ifindex)?;
            (link.name == known.name).then(|| known.clone())
        });
        kept.ok_or(reason)
    }

    /// Ensures that no device belongs to two pods: a pod whose own record is certain takes
    /// precedence, then the order of pods decides.
    fn part_from_doubles(&self, discovery: &mut Discovery) {
        let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
        let all = &discovery.interfaces;
        for (n, interface) in all.iter().enumerate() {
            let first = owners.entry(interface.ifindex).or_insert(n);
            if !all[*first].by.is_certain() && interface.by.is_certain() {
                *first = n;
            }
        }
        let owners: BTreeSet<usize> = owners.into_values().collect();
        let mut n = 0;
        discovery.interfaces.retain(|interface| {
            n += 1;
            let keeps = owners.contains(&(n - 1));
            if !keeps {
                discovery.unguarded.push(Unguarded {
                    pod: interface.pod.clone(),
                    reason: format!("{} is another pod's device", interface.name),
                    sandbox: Known::There,
                });
            }
            keeps
        });
    }

    /// Returns the devices for which it is known whether they lead into a sandbox. While some
    /// namespaces can't be checked, a device that leads to an unnamed namespace may lead into one
    /// of those.
    fn judged(&self) -> BTreeSet<u32> {
        let known = |link: &&Link| {
            let is_named = link
                .peer_netns
                .is_none_or(|id| self.namespaces.contains(&id));
            is_named || !self.partial
        };
        self.host
            .iter()
            .filter(known)
            .map(|link| link.index)
            .collect()
    }

    /// Returns the devices that lead into a sandbox and belong to no wanted pod.
    fn strangers(
        &self,
        devices: &[Result<&Link, Why>],
        bound: &[Interface],
        exempt: &Exempt,
    ) -> Vec<Stranger> {
        let bound: BTreeSet<u32> = bound.iter().map(|one| one.ifindex).collect();
        let mut records: BTreeMap<u32, &Sandbox> = BTreeMap::new();
        for (one, device) in self.sandboxes.iter().zip(devices) {
            if let Ok(link) = device {
                records.insert(link.index, &one.sandbox);
            }
        }
        let others = self
            .sandboxes
            .iter()
            .filter(|one| one.place != NamespaceState::Gone);
        let others: BTreeSet<&String> = others.flat_map(|one| &one.sandbox.others).collect();
        let leads = |link: &&Link| {
            let leads = link
                .peer_netns
                .is_some_and(|id| self.namespaces.contains(&id));
            leads || records.contains_key(&link.index)
        };
        let strange = self.veths().filter(leads);
        let strange = strange.filter(|link| !bound.contains(&link.index));
        strange
            .filter(|link| !others.contains(&link.name))
            .map(|link| {
                let record = records.get(&link.index);
                Stranger {
                    ifindex: link.index,
                    name: link.name.clone(),
                    pod: record.map(|one| format!("{}/{}", one.namespace, one.name)),
                    closed: !exempt.takes(record.map(|one| one.namespace.as_str()))
                        && record.is_none_or(|one| !one.open),
                }
            })
            .collect()
    }
}

/// Reports whether a sandbox belongs to a pod: by UID, or by name alone if no UID is recorded.
fn is_of(sandbox: &Sandbox, wanted: &Sought) -> bool {
    let pod = &wanted.pod;
    let names = sandbox.namespace == pod.namespace && sandbox.name == pod.name;
    names && sandbox.uid.as_ref().is_none_or(|uid| *uid == wanted.uid)
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
