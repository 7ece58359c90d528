//! The node's device that leads into a pod.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ringfence_netlink::{Link, Netlink, NetlinkError};

/// Why no device was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The pod's namespace can't be accessed.
    #[error("{}: {source}", path.display())]
    Namespace {
        /// The namespace's file.
        path: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel can't be queried.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Reports whether a file names the network namespace of the node itself.
pub(crate) fn is_node(netns: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let own = inode(Path::new("/proc/thread-self/ns/net"));
    own.is_ok_and(|own| inode(netns).is_ok_and(|other| other == own))
}

/// Finds the node's veth whose other end is in a namespace: one named by the plugins before
/// this one, else the only one. `None` if there is none, as with macvlan.
pub(crate) fn find<'a>(
    netns: &Path,
    named: impl Iterator<Item = &'a str>,
) -> Result<Option<Link>, DeviceError> {
    let failed = |source| DeviceError::Namespace {
        path: netns.to_owned(),
        source,
    };
    let file = File::open(netns).map_err(failed)?;
    let mut netlink = Netlink::open()?;
    // List links before querying the id: the kernel assigns ids as it lists links.
    let links = netlink.links()?;
    let Some(id) = netlink.namespace_id(file.as_fd())? else {
        return Ok(None);
    };
    Ok(choose(links, id, &named.collect::<Vec<&str>>()))
}

fn choose(links: Vec<Link>, id: i32, named: &[&str]) -> Option<Link> {
    let leads = |link: &Link| link.kind == "veth" && link.peer_netns == Some(id);
    let mut leading: Vec<Link> = links.into_iter().filter(leads).collect();
    let by_name = leading
        .iter()
        .position(|link| named.contains(&link.name.as_str()));
    match by_name {
        Some(n) => Some(leading.swap_remove(n)),
        None if leading.len() == 1 => leading.pop(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, netns: Option<i32>) -> Link {
        Link {
            name: name.to_owned(),
            kind: "veth".to_owned(),
            peer_netns: netns,
            ..Link::default()
        }
    }

    #[test]
    fn a_device_that_was_named_is_taken_before_one_that_only_leads_there() {
        let links = || vec![link("a", Some(4)), link("b", Some(4)), link("c", Some(5))];
        let name = |found: Option<Link>| found.map(|link| link.name);
        assert_eq!(name(choose(links(), 4, &["cni0", "b"])), Some("b".into()));
        // Named, but it leads into another namespace.
        assert_eq!(name(choose(links(), 4, &["c"])), None);
        assert_eq!(name(choose(links(), 5, &[])), Some("c".into()));
        assert_eq!(name(choose(links(), 4, &[])), None);
        assert_eq!(name(choose(links(), 6, &["a"])), None);
    }

    #[test]
    fn the_nodes_own_namespace_is_told_from_others() {
        assert!(is_node(Path::new("/proc/self/ns/net")));
        assert!(!is_node(Path::new("/proc/self/ns/pid")));
        assert!(!is_node(Path::new("/nowhere")));
    }
}
