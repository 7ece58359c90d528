//! Which device is which pod's, by what the pod runtime recorded: pure.
//!
//! A record names the device that the plugin made on the node's side. A pod can take
//! its own end elsewhere, and can't rename or move the node's.

use std::collections::{BTreeMap, BTreeSet};

use super::{Discovery, Exempt, Sandbox as Known, Unguarded, Wanted};
use crate::datapath::{Interface, Others, Stranger};
use crate::runtime::Sandbox;
use ringfence_netlink::Link;

/// What became of the namespace that a sandbox was made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Its file names none any longer: the sandbox is gone, whatever is on record.
    Gone,
    /// The record names no file that can be looked at.
    Unnamed,
    /// It is there, under this id if a device of the node leads into it.
    There(Option<i32>),
}

/// Why a sandbox has no device, and what that says of the sandbox.
type Why = (Known, String);

/// A sandbox and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// What the runtime says.
    pub sandbox: Sandbox,
    /// What the kernel says of its namespace.
    pub place: Place,
}

/// All that is known from the node's side.
pub struct Seen<'a> {
    /// The node's devices.
    pub host: &'a [Link],
    /// Sandboxes, the newest last.
    pub sandboxes: &'a [Located],
    /// Ids of the namespaces that runtimes name.
    pub namespaces: &'a BTreeSet<i32>,
    /// Whether more of them are named, and couldn't be looked at.
    pub partial: bool,
    /// What was bound last.
    pub known: &'a [Interface],
    /// The MAC of the other end of a device, where no record has it.
    pub mac: &'a dyn Fn(&Link) -> Option<[u8; 6]>,
}

impl<'a> Seen<'a> {
    /// Binds each wanted pod to its device; every other one that leads into a sandbox
    /// is a stranger's.
    pub fn bind(&self, wanted: &[Wanted], exempt: &Exempt) -> Discovery {
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

    /// The device of each sandbox that is there, or why it has none.
    fn devices(&self) -> Vec<Result<&'a Link, Why>> {
        let exact: Vec<Option<&'a Link>> =
            self.sandboxes.iter().map(|one| self.exact(one)).collect();
        let taken: BTreeSet<u32> = exact.iter().flatten().map(|link| link.index).collect();
        let each = self.sandboxes.iter().zip(&exact);
        each.map(|(one, exact)| match (one.place, exact) {
            (Place::Gone, _) => Err((Known::Gone, "its sandbox has gone".to_owned())),
            (_, Some(link)) => Ok(*link),
            (..) => self.near(one, &taken),
        })
        .collect()
    }

    /// The device that is both on record and leads into the sandbox.
    fn exact(&self, one: &Located) -> Option<&'a Link> {
        let Place::There(Some(id)) = one.place else {
            return None;
        };
        self.named(&one.sandbox.devices)
            .find(|link| link.peer_netns == Some(id))
    }

    /// A device that only one of both says: the record, where the pod has taken its end
    /// elsewhere or its namespace can't be looked at; or the kernel, where plugins say
    /// nothing of devices.
    fn near(&self, one: &Located, taken: &BTreeSet<u32>) -> Result<&'a Link, Why> {
        let named = self.named(&one.sandbox.devices);
        let named = named.filter(|link| !taken.contains(&link.index));
        // Names come again: one that leads into another sandbox is that one's by now.
        let elsewhere = |id: &i32| self.namespaces.contains(id);
        let is_there = one.place != Place::Unnamed;
        let mut named =
            named.filter(|link| !is_there || !link.peer_netns.as_ref().is_some_and(elsewhere));
        if let Some(link) = named.next() {
            return Ok(link);
        }
        let none = || {
            let none = "no device of the node leads into its sandbox";
            (Known::NotFound, none.to_owned())
        };
        let Place::There(Some(id)) = one.place else {
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

    fn interface(&self, pod: &Wanted, devices: &[Result<&Link, Why>]) -> Result<Interface, Why> {
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
        // A record may go before the device does, and a runtime may fall silent.
        let kept = before.and_then(|known| {
            let link = self.veths().find(|link| link.index == known.ifindex)?;
            (link.name == known.name).then(|| known.clone())
        });
        kept.ok_or(reason)
    }

    /// No device is two pods': a record that is certain of its own stands first, then
    /// the order of pods.
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

    /// The devices of which it is known whether they lead into a sandbox. While namespaces
    /// can't be looked at, one that leads elsewhere may lead into one of those.
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

    /// The devices that lead into a sandbox and are no wanted pod's.
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
        let others = self.sandboxes.iter().filter(|one| one.place != Place::Gone);
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

/// Whether a sandbox is a pod's: by UID, by name alone where none is on record.
fn is_of(sandbox: &Sandbox, wanted: &Wanted) -> bool {
    let pod = &wanted.pod;
    let names = sandbox.namespace == pod.namespace && sandbox.name == pod.name;
    names && sandbox.uid.as_ref().is_none_or(|uid| *uid == wanted.uid)
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
