//! From pods to their host-side devices.
//!
//! The edge enters each network namespace and lists what is there; [`matching`]
//! decides, and does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use ringfence_policy::index::PodKey;

use crate::datapath::Interface;
use crate::failure::one_line;
use crate::netlink::{Link, LinkAddress, Netlink, NetlinkError};

/// What kept discovery from looking at all.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The node's own devices couldn't be listed.
    #[error("listing the node's devices: {0}")]
    Host(#[from] NetlinkError),
    /// The folder of namespaces couldn't be read.
    #[error("--netns-dir {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No thread to visit the namespaces on.
    #[error("starting the discovery thread: {0}")]
    Thread(std::io::Error),
    /// The thread panicked.
    #[error("the discovery thread ended early")]
    Ended,
}

/// A pod whose interface is sought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The pod.
    pub pod: PodKey,
    /// Its addresses, as its status says.
    pub addresses: Vec<IpAddr>,
}

/// What one network namespace holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// Its file.
    pub path: PathBuf,
    /// The id by which the node's namespace knows it.
    pub id: Option<i32>,
    /// Its devices.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<LinkAddress>,
}

/// A pod of this node that isn't guarded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub struct Unguarded {
    /// The pod.
    pub pod: PodKey,
    /// Why.
    pub reason: String,
}

/// What discovery found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Discovery {
    /// One a pod, in order of pods.
    pub interfaces: Vec<Interface>,
    /// The other pods.
    pub unguarded: Vec<Unguarded>,
    /// Namespace files that couldn't be entered: a pod may be in one of them.
    pub skipped: Vec<String>,
}

/// Finds the interface of each wanted pod. Blocks for some 100 µs a namespace.
///
/// Everything happens on a thread that ends with the call: a thread in a foreign
/// network namespace must never run anything else.
///
/// `known` is what the last call found: a namespace that can't be entered for a
/// moment must not leave its pod unguarded.
pub fn discover(
    netns_dir: &Path,
    wanted: &[Wanted],
    known: &[Interface],
) -> Result<Discovery, DiscoverError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("discover".into())
            .spawn_scoped(scope, || {
                let (host, namespaces, skipped) = survey(netns_dir)?;
                Ok(Discovery {
                    skipped,
                    ..matching(wanted, known, &host, &namespaces)
                })
            })
            .map_err(DiscoverError::Thread)?
            .join()
            .unwrap_or(Err(DiscoverError::Ended))
    })
}

type Survey = (Vec<Link>, Vec<Namespace>, Vec<String>);

fn survey(netns_dir: &Path) -> Result<Survey, DiscoverError> {
    let folder = |source| DiscoverError::Folder {
        path: netns_dir.to_owned(),
        source,
    };
    let mut paths: Vec<PathBuf> = match fs::read_dir(netns_dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_, _>>()
            .map_err(folder)?,
        // No pod has started yet, so nobody has made it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(folder(error)),
    };
    paths.sort();
    let mut host = Netlink::open()?;
    // Before the ids are asked for: the kernel gives them out as it lists links.
    let links = host.links()?;
    let mut seen = BTreeSet::new();
    seen.extend(fs::metadata("/proc/thread-self/ns/net").map(|meta| (meta.dev(), meta.ino())));
    let (mut namespaces, mut skipped) = (Vec::new(), Vec::new());
    for path in paths {
        match visit(&path, &mut host, &mut seen) {
            Ok(namespace) => namespaces.extend(namespace),
            Err(error) => skipped.push(format!("{}: {}", path.display(), one_line(&error))),
        }
    }
    Ok((links, namespaces, skipped))
}

/// One namespace; none if it is the node's own or was seen under another name.
fn visit(
    path: &Path,
    host: &mut Netlink,
    seen: &mut BTreeSet<(u64, u64)>,
) -> anyhow::Result<Option<Namespace>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !seen.insert((meta.dev(), meta.ino())) {
        return Ok(None);
    }
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open()?;
    Ok(Some(Namespace {
        path: path.to_owned(),
        id: host.namespace_id(file.as_fd())?,
        links: netlink.links()?,
        addresses: netlink.addresses()?,
    }))
}

/// Decides which device leads to which pod.
///
/// A pod that isn't found keeps its known device while that exists and no other pod
/// has it: device indexes aren't used twice, so it can't have become another's.
pub fn matching(
    wanted: &[Wanted],
    known: &[Interface],
    host: &[Link],
    namespaces: &[Namespace],
) -> Discovery {
    let mut holders: BTreeMap<IpAddr, Vec<(usize, u32)>> = BTreeMap::new();
    for (n, namespace) in namespaces.iter().enumerate() {
        for address in &namespace.addresses {
            holders
                .entry(address.address)
                .or_default()
                .push((n, address.link));
        }
    }
    let host: BTreeMap<u32, &Link> = host.iter().map(|link| (link.index, link)).collect();
    let mut discovery = Discovery::default();
    for pod in wanted {
        match find(pod, &host, namespaces, &holders) {
            Ok(interface) => discovery.interfaces.push(interface),
            Err(reason) => discovery.unguarded.push(Unguarded {
                pod: pod.pod.clone(),
                reason,
            }),
        }
    }
    keep_known(&mut discovery, known, &host);
    discovery
}

fn keep_known(discovery: &mut Discovery, known: &[Interface], host: &BTreeMap<u32, &Link>) {
    let taken: BTreeSet<u32> = discovery
        .interfaces
        .iter()
        .map(|found| found.ifindex)
        .collect();
    discovery.unguarded.retain(|lost| {
        let kept = known.iter().find(|interface| {
            interface.pod == lost.pod
                && !taken.contains(&interface.ifindex)
                && host
                    .get(&interface.ifindex)
                    .is_some_and(|link| link.kind == "veth" && link.name == interface.name)
        });
        discovery.interfaces.extend(kept.cloned());
        kept.is_none()
    });
    discovery.interfaces.sort_by(|a, b| a.pod.cmp(&b.pod));
}

fn find(
    wanted: &Wanted,
    host: &BTreeMap<u32, &Link>,
    namespaces: &[Namespace],
    holders: &BTreeMap<IpAddr, Vec<(usize, u32)>>,
) -> Result<Interface, String> {
    if wanted.addresses.is_empty() {
        return Err("it has no address yet".into());
    }
    let mut places: BTreeMap<(usize, u32), usize> = BTreeMap::new();
    for address in &wanted.addresses {
        for place in holders.get(address).into_iter().flatten() {
            *places.entry(*place).or_default() += 1;
        }
    }
    let mut best: Option<((usize, u32), Interface)> = None;
    let mut reason = None;
    for (&(n, link), &matched) in &places {
        match host_side(&namespaces[n], link, host) {
            Ok((device, mac)) => {
                // A namespace that is being torn down may still hold an address
                // that was given to a newer pod; indexes only grow.
                let rank = (matched, device.index);
                if best.as_ref().is_none_or(|(other, _)| *other < rank) {
                    let interface = Interface {
                        pod: wanted.pod.clone(),
                        ifindex: device.index,
                        name: device.name.clone(),
                        mac,
                    };
                    best = Some((rank, interface));
                }
            }
            Err(why) => reason = Some(why),
        }
    }
    best.map(|(_, interface)| interface).ok_or_else(|| {
        reason.unwrap_or_else(|| {
            let addresses: Vec<_> = wanted.addresses.iter().map(IpAddr::to_string).collect();
            format!(
                "no network namespace has its address {}",
                addresses.join(" or ")
            )
        })
    })
}

/// The node's end of a pod's device, and the pod's MAC.
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
    let name = &link.name;
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
    // Indexes are unique in a namespace only, so an unrelated pair may agree by
    // chance. The device must be a veth whose other end is this one, and be there.
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

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
