//! Finds the host-side devices of pods.
//!
//! On a cluster the pod runtime's records decide ([`records`], [`bind`]). For manifests, which no
//! runtime knows, [`discover`] enters each network namespace and lists its contents, which are
//! claims of the pods; [`matching`] decides, and does no I/O.

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

/// Maximum number of devices, or of addresses, in one pod's namespace. Each pass lists them all,
/// so a pod that keeps adding more would slow down policy for all pods.
const POD_LIMIT: usize = 4096;

/// Why discovery couldn't run at all.
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
        /// The cause.
        source: std::io::Error,
    },
    /// The thread that enters the namespaces couldn't be started.
    #[error("starting the discovery thread: {0}")]
    Thread(std::io::Error),
    /// The thread panicked.
    #[error("the discovery thread ended early")]
    Ended,
}

/// A pod whose interface is being looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sought {
    /// The pod.
    pub pod: PodKey,
    /// The UID by which its pod runtime knows it.
    pub uid: String,
    /// Its addresses according to its status.
    pub addresses: Vec<IpAddr>,
    /// Whether it is being deleted.
    pub ends: bool,
}

/// Which devices of unknown pods are not closed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exempt {
    /// All of them.
    pub all: bool,
    /// Those of pods recorded in these namespaces.
    pub namespaces: Vec<String>,
}

impl Exempt {
    fn takes(&self, namespace: Option<&str>) -> bool {
        self.all || namespace.is_some_and(|one| self.namespaces.iter().any(|own| own == one))
    }
}

/// Finds the devices of pods; tests use another implementation.
pub trait Finder: Send {
    /// Asks the pod runtime again which sandboxes exist; none if no runtime is asked.
    ///
    /// # Errors
    /// Fails if the runtime can't be asked; its last answer stays valid.
    fn sandboxes(&mut self) -> Option<anyhow::Result<Vec<ringfence_policy::index::Sandbox>>> {
        None
    }

    /// Finds the device of each wanted pod. `known` is the result of the last call.
    ///
    /// # Errors
    /// Fails if discovery couldn't run at all.
    fn find(&mut self, wanted: &[Sought], known: &[Interface]) -> Result<Discovery, DiscoverError>;
}

/// Discovery by the contents of network namespaces, which are claims of the pods.
#[derive(Debug)]
pub struct Claims {
    /// Folder of network namespaces.
    pub netns_dir: PathBuf,
}

impl Finder for Claims {
    fn find(&mut self, wanted: &[Sought], known: &[Interface]) -> Result<Discovery, DiscoverError> {
        discover(&self.netns_dir, wanted, known)
    }
}

/// The contents of one network namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// Its file.
    pub path: PathBuf,
    /// The id of the namespace in the node's own namespace.
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
    /// What is known about its sandbox.
    #[serde(skip)]
    pub sandbox: Sandbox,
}

/// What is known about the sandbox of an unguarded pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Sandbox {
    /// It exists, or that is unknown: the pod may send and receive traffic.
    #[default]
    There,
    /// None is found (yet, or any more), as is normal while a pod starts or ends. If a device
    /// leads to one after all, it is closed like that of an unknown pod.
    NotFound,
    /// The namespace that it was created with is gone, so there is nothing to guard.
    Gone,
}

/// Result of discovery.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Discovery {
    /// One per pod, in order of pods.
    pub interfaces: Vec<Interface>,
    /// Pods without an interface.
    pub unguarded: Vec<Unguarded>,
    /// Namespaces that couldn't be entered or listed: a pod may be in one of them.
    pub skipped: Vec<String>,
    /// Anomalies of pods that were found.
    pub warnings: Vec<String>,
    /// What is known about devices that belong to no wanted pod.
    pub others: Others,
}

/// Finds the interface of each wanted pod. Blocks for some 100 µs per namespace.
///
/// Everything happens on a thread that ends with the call: a thread in a foreign network namespace
/// must never run anything else.
///
/// `known` is the result of the last call: a pod whose namespace can't be entered for a moment
/// must not become unguarded.
pub fn discover(
    netns_dir: &Path,
    wanted: &[Sought],
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

/// Returns the files that name network namespaces, in order.
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
        // Nothing has created the folder yet, since no pod has been started.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(folder(error)),
    };
    paths.sort();
    Ok(paths)
}

fn survey(netns_dir: &Path) -> Result<Survey, DiscoverError> {
    let paths = files(netns_dir)?;
    let mut host = Netlink::open()?;
    // List the links before asking for ids: this makes the kernel assign them.
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

/// Visits a namespace; returns none if it is the node's own or was seen under another name.
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
/// Addresses are read inside the pods' namespaces, where a pod with CAP_NET_ADMIN can set any
/// address. So a device that was found stays with its pod, under the MAC that it had then, for as
/// long as pod and device exist, even while the namespace can't be read; new devices are assigned
/// by [`claim::assign`].
pub fn matching(
    wanted: &[Sought],
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
    /// The current device, to fall back to.
    own: Option<&'a Interface>,
    /// Candidate devices, not empty, best first.
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
