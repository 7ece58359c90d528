//! The devices of the agent's network namespace, and the hooks of those that don't belong to a
//! pod.

use std::collections::BTreeMap;

use super::Hook;
use super::error::DatapathError;
use ringfence_netlink::{Link, LinkLayerType, Netlink};

/// One device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Device {
    /// Name of the device.
    pub(super) name: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// No traffic of a pod goes through it.
    Loopback,
    /// A packet that a filter redirects here returns to where it was redirected: it is still on
    /// its way, before DNAT, and has its tag. An `ifb` sends nothing of its own.
    Detour,
    Bridge,
    /// Its frames start with an Ethernet header.
    Ethernet,
    /// Its packets start with an IP header: tunnels, WireGuard, PPP. Media with other kinds of
    /// link headers carry no pod traffic; there, packets not accounted for are denied to
    /// isolated pods.
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

    /// Returns the hooks that the device gets if it doesn't belong to a pod.
    pub(super) const fn hooks(&self) -> &'static [Hook] {
        match self.kind {
            Kind::Loopback | Kind::Detour => &[],
            // A packet delivered by a bridge came in through one of its ports, where a foreign tag
            // was cleared; a tag of a local pod must be kept.
            Kind::Bridge => &[Hook::ToBridge, Hook::FromBridge],
            Kind::Ethernet => &[Hook::ToNetwork, Hook::FromNetwork],
            Kind::Bare => &[Hook::ToNetworkL3, Hook::FromNetwork],
        }
    }
}

/// Lists the current devices.
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
