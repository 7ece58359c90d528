//! The devices of the agent's network namespace, and what belongs on those that
//! aren't a pod's.

use std::collections::BTreeMap;

use super::error::DatapathError;
use super::hook::Hook;
use crate::netlink::{Link, Netlink};

/// One device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Device {
    /// Its name.
    pub(super) name: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing that comes from a pod goes through it.
    Loopback,
    Bridge,
    Other,
}

/// All devices by index.
pub(super) type Devices = BTreeMap<u32, Device>;

impl Device {
    fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            kind: match link.kind.as_str() {
                _ if link.loopback => Kind::Loopback,
                "bridge" => Kind::Bridge,
                _ => Kind::Other,
            },
        }
    }

    /// The hooks that it gets where no pod is behind it.
    pub(super) const fn hooks(&self) -> &'static [Hook] {
        match self.kind {
            Kind::Loopback => &[],
            // What comes up from a bridge came in by one of its ports, where a
            // foreign tag was cleared and a pod's own is to stay.
            Kind::Bridge => &[Hook::ToNetwork],
            Kind::Other => &[Hook::ToNetwork, Hook::FromNetwork],
        }
    }
}

/// The devices that are there now.
pub(super) fn list() -> Result<Devices, DatapathError> {
    let links = Netlink::open().and_then(|mut netlink| netlink.links());
    let links = links.map_err(|error| DatapathError::Program {
        operation: "listing interfaces".to_owned(),
        message: error.to_string(),
    })?;
    let device = |link: &Link| (link.index, Device::of(link));
    Ok(links.iter().map(device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(kind: &str, loopback: bool) -> &'static [Hook] {
        let link = Link {
            kind: kind.to_owned(),
            loopback,
            ..Link::default()
        };
        Device::of(&link).hooks()
    }

    #[test]
    fn bridges_keep_tags_that_come_up_and_loopback_has_no_hooks() {
        let both: &[Hook] = &[Hook::ToNetwork, Hook::FromNetwork];
        for kind in ["", "veth", "vxlan", "vlan", "wireguard", "dummy"] {
            assert_eq!(hooks(kind, false), both, "{kind}");
        }
        let out: &[Hook] = &[Hook::ToNetwork];
        assert_eq!(hooks("bridge", false), out);
        let none: &[Hook] = &[];
        assert_eq!(hooks("", true), none);
    }
}
