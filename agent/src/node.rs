//! This node's own network: the addresses that its kernel treats as local, and the UDP ports on
//! which it terminates tunnels.
//!
//! Listed again in every pass that looks at devices. What couldn't be listed keeps its last state.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_netlink::{Generic, Link, LocalRoute, Netlink, NetlinkError};

/// kube-proxy's IPVS mode assigns every Service's address to this device, including those that a
/// tenant chose. The owner of such an address is known from the Services.
const OF_SERVICES: &str = "kube-ipvs0";
/// Addresses of one local route up to which they are listed individually.
const LARGEST_ROUTE: u128 = 256;

/// A list, and what it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<T> {
    /// The entries found.
    pub found: BTreeSet<T>,
    /// Why the list may be incomplete.
    pub fault: Option<String>,
}

impl<T: Ord + Clone> Listed<T> {
    /// Merges this list with the `last` one: if it is incomplete, no entry counts as gone.
    pub fn after(self, last: &BTreeSet<T>) -> BTreeSet<T> {
        match self.fault {
            Some(_) => self.found.union(last).cloned().collect(),
            None => self.found,
        }
    }
}

impl<T: Ord> Listed<T> {
    fn failed(error: &NetlinkError) -> Self {
        Self {
            found: BTreeSet::new(),
            fault: Some(error.to_string()),
        }
    }
}

/// The result of one look at the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Surroundings {
    /// Addresses at which the node itself is reached from elsewhere.
    pub addresses: Listed<IpAddr>,
    /// UDP ports of tunnels.
    pub tunnels: Listed<u16>,
}

/// Inspects the network namespace of the calling thread.
pub fn look() -> Surroundings {
    let mut netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(error) => return Surroundings::failed(&error),
    };
    let links = match netlink.links() {
        Ok(links) => links,
        Err(error) => return Surroundings::failed(&error),
    };
    let mut tunnels = Listed {
        found: links.iter().flat_map(|link| link.tunnels.clone()).collect(),
        fault: unread(&netlink, "devices"),
    };
    match Generic::open().and_then(|mut generic| generic.tunnel_ports()) {
        Ok(more) => tunnels.found.extend(more),
        Err(error) => tunnels.fault = Some(error.to_string()),
    }
    netlink.unread = 0;
    let addresses = match netlink.local_routes() {
        Ok(routes) => Listed {
            found: addresses(&links, &routes),
            fault: unread(&netlink, "local routes").or_else(|| too_large(&routes)),
        },
        Err(error) => Listed::failed(&error),
    };
    Surroundings { addresses, tunnels }
}

impl Surroundings {
    fn failed(error: &NetlinkError) -> Self {
        Self {
            addresses: Listed::failed(error),
            tunnels: Listed::failed(error),
        }
    }
}

fn unread(netlink: &Netlink, what: &str) -> Option<String> {
    let unread = netlink.unread;
    (unread > 0).then(|| format!("{unread} of the node's {what} can't be read"))
}

/// Returns the addresses of local routes, without loopback addresses, which lead nowhere even if
/// routed.
fn addresses(links: &[Link], routes: &[LocalRoute]) -> BTreeSet<IpAddr> {
    let is_of_services = |route: &LocalRoute| {
        let link = links.iter().find(|link| Some(link.index) == route.link);
        link.is_some_and(|link| link.name == OF_SERVICES)
    };
    let routes = routes.iter().filter(|route| !is_of_services(route));
    let all = routes.flat_map(each);
    all.filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast())
        .collect()
}

/// Returns every address of a route; none if there are too many.
fn each(route: &LocalRoute) -> Vec<IpAddr> {
    let Some(count) = size(route).filter(|size| *size <= LARGEST_ROUTE) else {
        return Vec::new();
    };
    // Both sums stay within the prefix, whose last address is the largest possible sum.
    match route.address {
        IpAddr::V4(first) => {
            let first = u32::from(first);
            let rest = u32::try_from(count - 1).unwrap_or_default();
            (first..=first.saturating_add(rest))
                .map(|ip| IpAddr::V4(ip.into()))
                .collect()
        }
        IpAddr::V6(first) => {
            let first = u128::from(first);
            (first..=first.saturating_add(count - 1))
                .map(|ip| IpAddr::V6(ip.into()))
                .collect()
        }
    }
}

/// Returns how many addresses a route covers; none if it covers all of IPv6.
fn size(route: &LocalRoute) -> Option<u128> {
    let bits: u32 = match route.address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    1_u128.checked_shl(bits.checked_sub(route.length.into())?)
}

fn too_large(routes: &[LocalRoute]) -> Option<String> {
    let large = routes.iter().find(|route| {
        !route.address.is_loopback() && size(route).is_none_or(|size| size > LARGEST_ROUTE)
    })?;
    Some(format!(
        "the local route to {}/{} covers more than {LARGEST_ROUTE} addresses, which don't count \
         as the node's",
        large.address, large.length
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(address: &str, length: u8, link: u32) -> LocalRoute {
        LocalRoute {
            address: address.parse().unwrap(),
            length,
            link: Some(link),
        }
    }

    fn links() -> Vec<Link> {
        let link = |(index, name): (u32, &str)| Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        };
        [(1, "lo"), (2, "eth0"), (3, OF_SERVICES)].map(link).into()
    }

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_of_every_device_but_loopback_and_the_services_own_are_the_nodes() {
        let routes = [
            route("127.0.0.0", 8, 1),
            route("127.0.0.1", 32, 1),
            route("::1", 128, 1),
            route("192.0.2.1", 32, 2),
            route("169.254.1.1", 32, 1),
            route("fe80::1", 128, 2),
            route("10.96.0.1", 32, 3),
        ];
        let found = addresses(&links(), &routes);
        assert_eq!(found, set(&["192.0.2.1", "169.254.1.1", "fe80::1"]));
        assert_eq!(too_large(&routes), None);
    }

    #[test]
    fn a_small_prefix_is_taken_address_by_address_and_a_large_one_is_named() {
        let small = [
            route("198.51.100.252", 30, 1),
            route("2001:db8::fffc", 127, 1),
        ];
        let found = addresses(&links(), &small);
        let ends = ["198.51.100.252", "198.51.100.253", "198.51.100.254"];
        let mut all = set(&ends);
        all.extend(set(&["198.51.100.255", "2001:db8::fffc", "2001:db8::fffd"]));
        assert_eq!(found, all);
        let last = [
            route("255.255.255.255", 32, 1),
            route("198.51.100.0", 24, 1),
        ];
        assert_eq!(addresses(&links(), &last).len(), 257);
        for large in [route("10.9.0.0", 16, 1), route("2001:db8::", 64, 1)] {
            assert_eq!(addresses(&links(), &[large]), BTreeSet::new());
            let said = too_large(&[large]).unwrap();
            assert!(said.contains(&large.address.to_string()), "{said}");
        }
        let all = route("::", 0, 1);
        assert_eq!(addresses(&links(), &[all]), BTreeSet::new());
        assert!(too_large(&[all]).is_some());
    }

    #[test]
    fn what_is_missing_in_a_list_with_a_fault_stays() {
        let last: BTreeSet<u16> = [1, 2].into();
        let mut now = Listed {
            found: BTreeSet::from([2, 3]),
            fault: None,
        };
        assert_eq!(now.clone().after(&last), [2, 3].into());
        now.fault = Some("netlink GETLINK: interrupted".to_owned());
        assert_eq!(now.after(&last), [1, 2, 3].into());
    }

    #[test]
    fn this_namespace_can_be_looked_at() {
        let seen = look();
        assert_eq!(seen.tunnels.fault, None);
        assert!(seen.addresses.found.iter().all(|ip| !ip.is_loopback()));
    }
}
