//! From pods to their host-side devices.
//!
//! On a cluster the pod runtime's records decide ([`records`], [`bind`]). For manifests,
//! which no runtime knows, [`discover`] enters each network namespace and lists what is
//! there, which is what pods claim; [`matching`] decides, and does no I/O.

pub mod bind;
mod claim;
pub mod records;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use ringfence_policy::index::PodKey;

use crate::datapath::{Interface, Others};
use crate::failure::one_line;
use ringfence_netlink::{Link, LinkAddress, Netlink, NetlinkError};
use view::View;

/// Devices, or addresses, that one pod's namespace may have. Each pass lists them
/// all, so a pod that adds them without end would slow down everybody's policy.
const POD_LIMIT: usize = 4096;

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
    /// The UID under which its pod runtime knows it.
    pub uid: String,
    /// Its addresses, as its status says.
    pub addresses: Vec<IpAddr>,
    /// It is being deleted.
    pub ends: bool,
}

/// Which devices of unknown pods pass all the same.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exempt {
    /// All of them.
    pub all: bool,
    /// Those of pods that are on record in these namespaces.
    pub namespaces: Vec<String>,
}

impl Exempt {
    fn takes(&self, namespace: Option<&str>) -> bool {
        self.all || namespace.is_some_and(|one| self.namespaces.iter().any(|own| own == one))
    }
}

/// Finds the devices of pods; another implementation stands in for tests.
pub trait Finder: Send {
    /// Asks the pod runtime anew which sandboxes there are; none where no runtime is
    /// asked.
    ///
    /// # Errors
    /// If it can't be asked: what it said before stays.
    fn sandboxes(&mut self) -> Option<anyhow::Result<Vec<ringfence_policy::index::Sandbox>>> {
        None
    }

    /// The device of each wanted pod. `known` is what the last call found.
    ///
    /// # Errors
    /// If nothing could be looked at.
    fn find(&mut self, wanted: &[Wanted], known: &[Interface]) -> Result<Discovery, DiscoverError>;
}

/// By what namespaces show, which is what pods claim.
#[derive(Debug)]
pub struct Claims {
    /// Folder of network namespaces.
    pub netns_dir: PathBuf,
}

impl Finder for Claims {
    fn find(&mut self, wanted: &[Wanted], known: &[Interface]) -> Result<Discovery, DiscoverError> {
        discover(&self.netns_dir, wanted, known)
    }
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
    /// What that may come to.
    #[serde(skip)]
    pub sandbox: Sandbox,
}

/// What is known of the sandbox of a pod that isn't guarded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Sandbox {
    /// It is there, or nobody can tell: the pod may send and is sent to.
    #[default]
    There,
    /// None is found (yet, or any more), which is how a pod starts and ends. A device that
    /// leads to one all the same is closed, as one of a pod that nobody knows.
    NotFound,
    /// It has gone, by what it was made with: nobody is there to be guarded.
    Gone,
}

/// What discovery found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Discovery {
    /// One a pod, in order of pods.
    pub interfaces: Vec<Interface>,
    /// The other pods.
    pub unguarded: Vec<Unguarded>,
    /// Namespaces that couldn't be entered or listed: a pod may be in one of them.
    pub skipped: Vec<String>,
    /// What is odd about pods that were found.
    pub warnings: Vec<String>,
    /// What is known of devices that are no wanted pod's.
    pub others: Others,
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

/// The files that name network namespaces, in order.
fn files(netns_dir: &Path) -> Result<Vec<PathBuf>, DiscoverError> {
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
    Ok(paths)
}

fn survey(netns_dir: &Path) -> Result<Survey, DiscoverError> {
    let paths = files(netns_dir)?;
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
    let mut netlink = Netlink::open()?.with_limit(POD_LIMIT);
    Ok(Some(Namespace {
        path: path.to_owned(),
        id: host.namespace_id(file.as_fd())?,
        links: netlink.links()?,
        addresses: netlink.addresses()?,
    }))
}

/// Decides which device leads to which pod.
///
/// Addresses are read inside the pods' namespaces, where a pod with CAP_NET_ADMIN
/// writes what it likes. So a device that was found stays its pod's, under the MAC
/// that it had then, for as long as pod and device are there, also while the
/// namespace is out of sight; what is new is contested in [`claim::assign`].
pub fn matching(
    wanted: &[Wanted],
    known: &[Interface],
    host: &[Link],
    namespaces: &[Namespace],
) -> Discovery {
    let view = View::of(host, namespaces);
    let held = view.held(wanted, known);
    let mut discovery = Discovery::default();
    discovery.others.judged = Some(host.iter().map(|link| link.index).collect());
    let mut contenders = Vec::new();
    for pod in wanted {
        let own = held.values().find(|own| own.pod == pod.pod);
        match (own, view.candidates(pod)) {
            (Some(own), candidates) if !view.may_leave(own, candidates.as_deref()) => {
                discovery.interfaces.push(own.clone());
            }
            (own, Ok(candidates)) => contenders.push(Contender { own, candidates }),
            (_, Err(reason)) => discovery.unguarded.push(Unguarded {
                pod: pod.pod.clone(),
                reason,
                sandbox: Sandbox::There,
            }),
        }
    }
    contest(&contenders, &held, &mut discovery);
    discovery.interfaces.sort_by(|a, b| a.pod.cmp(&b.pod));
    discovery.warnings = view.changed_macs(&discovery.interfaces);
    discovery
}

/// A pod that has no device yet, or whose device has lost the pod's addresses.
struct Contender<'a> {
    /// The device to fall back to.
    own: Option<&'a Interface>,
    /// Not empty; best first.
    candidates: Vec<Interface>,
}

fn contest(
    contenders: &[Contender<'_>],
    held: &BTreeMap<u32, Interface>,
    discovery: &mut Discovery,
) {
    let wishes: Vec<Vec<u32>> = contenders
        .iter()
        .map(|contender| {
            let all = contender.candidates.iter().map(|one| one.ifindex);
            all.filter(|ifindex| !held.contains_key(ifindex)).collect()
        })
        .collect();
    let owners = claim::assign(&wishes);
    for (n, contender) in contenders.iter().enumerate() {
        let won = contender
            .candidates
            .iter()
            .find(|one| owners.get(&one.ifindex) == Some(&n));
        if let Some(interface) = won.or(contender.own) {
            discovery.interfaces.push(interface.clone());
            continue;
        }
        let lost = &contender.candidates[0];
        let rival = owners
            .get(&lost.ifindex)
            .map(|n| &contenders[*n].candidates[0].pod)
            .or_else(|| held.get(&lost.ifindex).map(|own| &own.pod));
        let rival = rival.map_or_else(|| "another pod".to_owned(), PodKey::to_string);
        discovery.unguarded.push(Unguarded {
            pod: lost.pod.clone(),
            reason: format!(
                "its address is on {}, which is the device of {rival}",
                lost.name
            ),
            sandbox: Sandbox::There,
        });
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
