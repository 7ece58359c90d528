//! The devices of the agent's network namespace, and what belongs on those that
//! aren't a pod's.

use std::collections::BTreeMap;

use super::Hook;
use super::error::DatapathError;
use ringfence_netlink::{Link, LinkLayerType, Netlink};

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
    /// What a filter redirects to it comes back to where it was taken from: it is on
    /// its way, before DNAT, and with its tag. By itself an `ifb` sends nothing.
    Detour,
    Bridge,
    /// Its frames start with an Ethernet header.
    Ethernet,
    /// What it sends starts with IP: tunnels, WireGuard, PPP. Media with link
    /// headers of other kinds carry no pod's packets; there, what can't be
    /// accounted for is denied to isolated pods.
    Bare,
}

/// All devices by index.
pub(super) type Devices = BTreeMap<u32, Device>;

impl Device {
    fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            kind: match (link.medium, link.kind.as_str()) {
                (LinkLayerType::Loopback, _) => Kind::Loopback,
                (_, "ifb") => Kind::Detour,
                (LinkLayerType::Ether, "bridge") => Kind::Bridge,
                (LinkLayerType::Ether, _) => Kind::Ethernet,
                _ => Kind::Bare,
            },
        }
    }

    /// The hooks that it gets where no pod is behind it.
    pub(super) const fn hooks(&self) -> &'static [Hook] {
        match self.kind {
            Kind::Loopback | Kind::Detour => &[],
            // What comes up from a bridge came in by one of its ports, where a
            // foreign tag was cleared and a pod's own is to stay.
            Kind::Bridge => &[Hook::ToBridge, Hook::FromBridge],
            Kind::Ethernet => &[Hook::ToNetwork, Hook::FromNetwork],
            Kind::Bare => &[Hook::ToNetworkL3, Hook::FromNetwork],
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

    fn hooks(kind: &str, medium: LinkLayerType) -> &'static [Hook] {
        let link = Link {
            kind: kind.to_owned(),
            medium,
            ..Link::default()
        };
        Device::of(&link).hooks()
    }

    #[test]
    fn bridges_keep_tags_that_come_up_and_loopback_has_no_hooks() {
        let both: &[Hook] = &[Hook::ToNetwork, Hook::FromNetwork];
        for kind in ["", "veth", "vxlan", "vlan", "dummy"] {
            assert_eq!(hooks(kind, LinkLayerType::Ether), both, "{kind}");
        }
        let bridge: &[Hook] = &[Hook::ToBridge, Hook::FromBridge];
        assert_eq!(hooks("bridge", LinkLayerType::Ether), bridge);
        let none: &[Hook] = &[];
        assert_eq!(hooks("", LinkLayerType::Loopback), none);
    }

    #[test]
    fn a_packet_that_takes_the_detour_of_a_shaper_is_decided_where_it_arrives() {
        let none: &[Hook] = &[];
        assert_eq!(hooks("ifb", LinkLayerType::Ether), none);
    }

    #[test]
    fn what_a_device_without_link_headers_sends_is_read_from_its_ip_header() {
        let bare: &[Hook] = &[Hook::ToNetworkL3, Hook::FromNetwork];
        for (kind, medium) in [
            ("wireguard", LinkLayerType::None),
            ("tun", LinkLayerType::None),
            ("ipip", LinkLayerType::Tunnel),
            ("sit", LinkLayerType::Sit),
        ] {
            assert_eq!(hooks(kind, medium), bare, "{kind}");
        }
    }
}
