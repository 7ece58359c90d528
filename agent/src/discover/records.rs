//! Discovery by the pod runtime's records: nothing is read inside a pod's namespace except the MAC
//! of a device whose plugin recorded none.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use ringfence_policy::index;

use super::bind::{Located, NamespaceState, Seen};
use super::{DiscoverError, Discovery, Exempt, Finder, Sought, files};
use crate::datapath::Interface;
use crate::failure::one_line;
use crate::runtime::cri::Cri;
use crate::runtime::plugin;
use crate::runtime::{Cache, Sandbox};
use crate::settings::Settings;
use ringfence_netlink::{Link, Netlink};

/// Discovery by records.
#[derive(Debug)]
pub struct Records {
    netns_dir: PathBuf,
    /// The network plugin's own records, if it keeps any.
    plugin: Option<plugin::Records>,
    cache: Cache,
    cri: Option<Cri>,
    exempt: Exempt,
    /// The last answer of the runtime.
    sandboxes: Vec<Sandbox>,
    /// Records that can't be used.
    faults: Vec<String>,
}

/// The namespaces named by files, by file name.
struct Namespaces {
    /// The id is none for namespaces into which no device of the node leads.
    by_name: BTreeMap<String, Option<i32>>,
    /// Names of files that couldn't be checked.
    unread: BTreeSet<String>,
    skipped: Vec<String>,
}

impl Records {
    /// Creates the discovery for an agent with these settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            netns_dir: settings.netns_dir.clone(),
            plugin: settings.cni_state.as_deref().map(plugin::Records::new),
            cache: Cache::new(settings.cni_cache.clone()),
            cri: settings.cri_socket.clone().map(Cri::new),
            exempt: settings.exempt.clone(),
            sandboxes: Vec::new(),
            faults: Vec::new(),
        }
    }
}

impl Finder for Records {
    fn sandboxes(&mut self) -> Option<anyhow::Result<Vec<index::Sandbox>>> {
        let results = match self.cache.look() {
            Ok(results) => results,
            Err(error) => return Some(Err(error.into())),
        };
        self.faults = results.faults;
        self.sandboxes = match &mut self.plugin {
            None => Vec::new(),
            Some(plugin) => match plugin.look() {
                Ok(sandboxes) => sandboxes,
                Err(error) => return Some(Err(error).context("the network plugin's records")),
            },
        };
        self.faults
            .extend(self.plugin.iter().flat_map(plugin::Records::faults));
        merge(&mut self.sandboxes, results.sandboxes.iter());
        if let Some(cri) = &mut self.cri {
            // This supplements the records: the last answer stays valid until the runtime answers
            // again.
            let asked = cri.look();
            self.faults
                .extend(asked.err().map(|error| one_line(&error)));
            merge(&mut self.sandboxes, cri.sandboxes());
        }
        // A sandbox whose namespace is gone no longer has addresses, whatever is on record.
        let there = self.sandboxes.iter().filter(|one| {
            let file = own_file(&self.netns_dir, one);
            file.is_none_or(|file| is_namespace(&file))
        });
        let shown = there.map(|one| index::Sandbox {
            namespace: one.namespace.clone(),
            name: one.name.clone(),
            uid: one.uid.clone(),
            addresses: one.addresses.clone(),
        });
        Some(Ok(shown.collect()))
    }

    fn find(&mut self, wanted: &[Sought], known: &[Interface]) -> Result<Discovery, DiscoverError> {
        let mut netlink = Netlink::open()?;
        // List the links before asking for ids: this makes the kernel assign them.
        let host = netlink.links()?;
        let namespaces = Namespaces::of(&self.netns_dir, &mut netlink)?;
        let located: Vec<Located> = self
            .sandboxes
            .iter()
            .map(|sandbox| Located {
                place: namespaces.place(&self.netns_dir, sandbox),
                sandbox: sandbox.clone(),
            })
            .collect();
        let netlink = RefCell::new(netlink);
        let mac = |link: &Link| {
            let (peer, netns) = (link.peer?, link.peer_netns?);
            let found = netlink.borrow_mut().link_elsewhere(netns, peer);
            found.ok().flatten().and_then(|link| link.mac)
        };
        let seen = Seen {
            host: &host,
            sandboxes: &located,
            namespaces: &namespaces.by_name.values().flatten().copied().collect(),
            partial: !namespaces.unread.is_empty(),
            known,
            mac: &mac,
        };
        let mut discovery = seen.bind(wanted, &self.exempt);
        discovery.skipped = namespaces.skipped;
        discovery.skipped.extend(self.faults.iter().cloned());
        if !self.cache.folder().exists() {
            let folder = self.cache.folder().display();
            let missing = format!(
                "--cni-cache {folder} isn't there: the pod runtime has recorded no pod, or \
                 keeps its records elsewhere"
            );
            discovery.skipped.push(missing);
        }
        Ok(discovery)
    }
}

/// Adds sandboxes that aren't in the records, and completes those that are.
fn merge<'a>(sandboxes: &mut Vec<Sandbox>, others: impl Iterator<Item = &'a Sandbox>) {
    for other in others {
        match sandboxes.iter_mut().find(|one| one.id == other.id) {
            Some(one) => {
                one.uid = one.uid.take().or_else(|| other.uid.clone());
                one.netns = one.netns.take().or_else(|| other.netns.clone());
                one.mac = one.mac.or(other.mac);
                if one.others.is_empty() {
                    one.others.clone_from(&other.others);
                }
                if one.addresses.is_empty() {
                    one.addresses.clone_from(&other.addresses);
                }
            }
            None => sandboxes.push(other.clone()),
        }
    }
    sandboxes.sort_by_key(|one| (one.recorded, one.id.clone()));
}

impl Namespaces {
    fn of(folder: &Path, host: &mut Netlink) -> Result<Self, DiscoverError> {
        let mut found = Self {
            by_name: BTreeMap::new(),
            unread: BTreeSet::new(),
            skipped: Vec::new(),
        };
        let own = std::fs::metadata("/proc/thread-self/ns/net");
        let own = own.map(|meta| (meta.dev(), meta.ino())).ok();
        for path in files(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match id(&path, host, own) {
                Ok(Some(id)) => {
                    found.by_name.insert(name.into_owned(), id);
                }
                Ok(None) => {}
                Err(error) => {
                    found.unread.insert(name.into_owned());
                    let path = path.display();
                    found.skipped.push(format!("{path}: {}", one_line(&error)));
                }
            }
        }
        Ok(found)
    }

    fn place(&self, folder: &Path, sandbox: &Sandbox) -> NamespaceState {
        let Some(file) = own_file(folder, sandbox) else {
            return NamespaceState::Unnamed;
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match self.by_name.get(&*name) {
            Some(id) => NamespaceState::There(*id),
            // It may well exist, so the recorded device is used.
            None if self.unread.contains(&*name) => NamespaceState::Unnamed,
            None => NamespaceState::Gone,
        }
    }
}

/// Returns the id of a namespace, if it has one; nothing if the file doesn't name a pod's
/// namespace.
fn id(
    path: &Path,
    host: &mut Netlink,
    own: Option<(u64, u64)>,
) -> anyhow::Result<Option<Option<i32>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        // The file was removed in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let meta = file.metadata()?;
    if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC || Some((meta.dev(), meta.ino())) == own {
        return Ok(None);
    }
    Ok(Some(host.namespace_id(file.as_fd())?))
}

fn is_namespace(path: &Path) -> bool {
    let fs = File::open(path).map(|file| fstatfs(&file));
    matches!(fs, Ok(Ok(fs)) if fs.filesystem_type() == NSFS_MAGIC)
}

/// Returns the file of a sandbox's namespace in the folder that the agent sees: runtimes refer to
/// it as `/var/run/netns` or `/run/netns`. None if it is elsewhere, for example below `/proc`.
fn own_file(folder: &Path, sandbox: &Sandbox) -> Option<PathBuf> {
    let path = sandbox.netns.as_deref()?;
    let parent = path.parent()?;
    let is_usual = parent == Path::new("/var/run/netns") || parent == Path::new("/run/netns");
    (is_usual || parent == folder).then(|| folder.join(path.file_name().unwrap_or_default()))
}
