//! The results of network plugins that libcni caches on the node, one file per attachment
//! (`libcni/api.go`, `cachedInfo`): both containerd and CRI-O write them once ADD has succeeded,
//! and remove them with DEL.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ringfence_cni::Made;
use serde::Deserialize;

use super::files::Files;
use super::{FoundBy, Sandbox};

/// The interface that has the pod's addresses, in every runtime.
const FIRST: &str = "eth0";

/// Why the results couldn't be read at all.
#[derive(Debug, thiserror::Error)]
#[error("--cni-cache {}: {source}", path.display())]
pub struct CacheError {
    /// The folder.
    path: PathBuf,
    /// The cause.
    source: io::Error,
}

/// The folder of results; each file is read once.
#[derive(Debug)]
pub struct Cache(Files<Attachment>);

/// The contents of the folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Results {
    /// Sandboxes, oldest records first.
    pub sandboxes: Vec<Sandbox>,
    /// Files that can't be used: name and reason.
    pub faults: Vec<String>,
}

impl Cache {
    /// Creates a reader for a folder, which needn't exist yet.
    pub const fn new(folder: PathBuf) -> Self {
        Self(Files::new(folder, parse))
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        self.0.folder()
    }

    /// Reads new and changed files.
    ///
    /// # Errors
    /// Fails if the folder can't be listed. A missing folder isn't an error: no pod has started
    /// yet.
    pub fn look(&mut self) -> Result<Results, CacheError> {
        self.0.look().map_err(|source| CacheError {
            path: self.0.folder().to_owned(),
            source,
        })?;
        let mut sandboxes: BTreeMap<&str, Vec<(&Attachment, SystemTime)>> = BTreeMap::new();
        for (said, at) in self.0.said() {
            let all = sandboxes.entry(&said.container).or_default();
            all.push((said, at));
        }
        let mut sandboxes: Vec<Sandbox> =
            sandboxes.values().filter_map(|all| sandbox(all)).collect();
        sandboxes.sort_by_key(|one| (one.recorded, one.id.clone()));
        Ok(Results {
            sandboxes,
            faults: self.0.faults().collect(),
        })
    }
}

/// One interface of one pod.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Attachment {
    container: String,
    interface: String,
    namespace: String,
    name: String,
    uid: Option<String>,
    netns: Option<PathBuf>,
    devices: Vec<String>,
    mac: Option<[u8; 6]>,
    addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    container_id: String,
    if_name: String,
    #[serde(default)]
    netns: Option<PathBuf>,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: Option<Made>,
}

/// Parses a file; returns nothing if it isn't about a pod, or is about a loopback device.
fn parse(text: &[u8]) -> Result<Option<Attachment>, String> {
    let cached: Cached = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if cached.kind != "cniCacheV1" {
        return Err(format!("kind {:?} is none that is known", cached.kind));
    }
    let args = cached.cni_args.unwrap_or_default();
    let arg = |name: &str| {
        let found = args
            .iter()
            .find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.clone())
    };
    let (Some(namespace), Some(name)) = (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) else {
        return Ok(None);
    };
    let Some(made) = cached.result.filter(|_| cached.if_name != "lo") else {
        return Ok(None);
    };
    Ok(Some(Attachment {
        container: cached.container_id,
        namespace,
        name,
        uid: arg("K8S_POD_UID"),
        netns: made
            .namespace(&cached.if_name)
            .map(PathBuf::from)
            .or(cached.netns),
        devices: made.on_node().map(str::to_owned).collect(),
        mac: made.mac(&cached.if_name).and_then(mac),
        addresses: made.addresses(),
        interface: cached.if_name,
    }))
}

/// Parses a MAC written with colons.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// Combines attachments into a sandbox: the first interface, and the devices of the others.
fn sandbox(all: &[(&Attachment, SystemTime)]) -> Option<Sandbox> {
    let is_later =
        |one: &&(&Attachment, SystemTime)| (one.0.interface != FIRST, one.0.interface.clone());
    let (first, recorded) = all.iter().min_by_key(is_later)?;
    let others = all
        .iter()
        .filter(|(one, _)| one.interface != first.interface);
    Some(Sandbox {
        id: first.container.clone(),
        namespace: first.namespace.clone(),
        name: first.name.clone(),
        uid: first.uid.clone(),
        netns: first.netns.clone(),
        devices: first.devices.clone(),
        others: others.flat_map(|(one, _)| one.devices.clone()).collect(),
        mac: first.mac,
        addresses: first.addresses.clone(),
        recorded: *recorded,
        by: FoundBy::CniCache,
        open: false,
    })
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
