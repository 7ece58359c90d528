//! What a compilation gives: the entries of every policy map, ordered.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ringfence_ebpf::{
    abi::{Addr, EndpointWorld, Grant, Identity, PortBlock, PortKey, ServiceKey, Tiers, World},
    verdict::PolicyTables,
};

use crate::{index::PodKey, prefix};

/// One generation of policy, without the world bit that the maps add.
///
/// Equal objects give equal tables, so that two generations can be compared
/// entry by entry. Ids are hashes of what they stand for: an unrelated change
/// doesn't renumber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Peer class of exact addresses, where it isn't what `cidrs` gives.
    pub classes: BTreeMap<Addr, u32>,
    /// Peer class by prefix: address, and length in 0..=128 on the 128-bit
    /// form (96 + n for IPv4's /n). The longest one counts.
    pub cidrs: BTreeMap<(Addr, u8), u32>,
    /// What a ruleset grants a class. A class without an entry is granted what class 0
    /// is, and nothing if that has none either: see [`Tables::granted`].
    pub rules: BTreeMap<(u32, u32), Grant>,
    /// Single ports and ranges by port set (low four bits cleared), IANA protocol
    /// number, and port divided by 256 or [`PortKey::SUMMARY`].
    pub ports: BTreeMap<(u32, u16, u16), PortBlock>,
    /// The pods in scope: not finished, not in a node's network namespace.
    pub endpoints: BTreeMap<PodKey, EndpointPolicy>,
    /// Workload and bits of [`ringfence_ebpf::abi::Identity`] of every known
    /// pod's and node's address; of a Service's address its `namespace/name`.
    pub identities: BTreeMap<Addr, (Arc<str>, u32)>,
    /// The ports that Services have at their addresses.
    pub services: BTreeMap<ServiceKey, ()>,
    /// Whom addresses are counted as at which nobody is known, by prefix as in `cidrs`:
    /// [`Identity::UNKNOWN_POD`](ringfence_ebpf::abi::Identity::UNKNOWN_POD) in pods'
    /// ranges, [`Identity::OUTSIDE`](ringfence_ebpf::abi::Identity::OUTSIDE) at balancers'
    /// addresses in them, and wherever no prefix is.
    pub ranges: BTreeMap<(Addr, u8), u32>,
    /// Some Services' addresses aren't in `identities`, for want of room: any address that
    /// isn't may be one.
    pub hides_services: bool,
}

/// What one pod is under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// `namespace/service`.
    pub workload: String,
    /// Its addresses; empty before it has any, and if another pod shows the same.
    pub addresses: Vec<IpAddr>,
    /// Ruleset of packets to the pod, 0 if no policy isolates it there.
    pub ingress: u32,
    /// Ruleset of packets from the pod, 0 if no policy isolates it there.
    pub egress: u32,
    /// Bits of [`EndpointWorld`]'s constants.
    pub flags: u32,
    /// What ClusterNetworkPolicies alone say.
    pub tiers: Tiers,
}

impl EndpointPolicy {
    /// The half of an endpoint's kernel entry, epoch 0.
    pub fn half(&self) -> EndpointWorld {
        EndpointWorld {
            ingress: self.ingress,
            egress: self.egress,
            flags: self.flags,
            epoch: 0,
        }
    }

    /// The same for the pod's own node, and for itself behind a Service.
    pub fn exempt_half(&self) -> EndpointWorld {
        let Tiers { ingress, egress } = self.tiers;
        let mut flags = self.flags & !EndpointWorld::QUARANTINE;
        if ingress == 0 {
            flags &= !(EndpointWorld::INGRESS_ISOLATED | EndpointWorld::INGRESS_STAGED);
        }
        if egress == 0 {
            flags &= !(EndpointWorld::EGRESS_ISOLATED | EndpointWorld::EGRESS_STAGED);
        }
        EndpointWorld {
            ingress,
            egress,
            flags,
            epoch: 0,
        }
    }
}

impl Tables {
    /// The ports that Services have at an address.
    pub(crate) fn service_ports(&self, addr: Addr) -> impl Iterator<Item = ServiceKey> {
        let key = |protocol, port| ServiceKey {
            addr,
            protocol,
            port,
        };
        let all = key(0, 0)..=key(u16::MAX, u16::MAX);
        self.services.range(all).map(|(key, ())| *key)
    }

    /// Whom an address is counted as at which nobody is known.
    pub fn range_of(&self, addr: &Addr) -> u32 {
        let found = prefix::longest(&self.ranges, addr, 128);
        found.map_or(Identity::OUTSIDE, |(_, workload)| *workload)
    }

    /// What a ruleset grants a class.
    pub fn granted(&self, ruleset: u32, class: u32) -> Grant {
        let rule = |class: u32| self.rules.get(&(ruleset, class)).copied();
        rule(class).or_else(|| rule(0)).unwrap_or_default()
    }

    /// The class that prefixes alone give an address.
    pub(crate) fn class_by_prefix(&self, addr: &Addr, max: u8) -> u32 {
        prefix::longest(&self.cidrs, addr, max).map_or(0, |(_, class)| *class)
    }

    /// The class of an address.
    pub fn class_of(&self, addr: &Addr) -> u32 {
        match self.classes.get(addr) {
            Some(class) => *class,
            None => self.class_by_prefix(addr, 128),
        }
    }
}

impl PolicyTables for Tables {
    fn class(&self, _: World, addr: &Addr) -> u32 {
        self.class_of(addr)
    }

    fn grant(&self, _: World, ruleset: u32, class: u32) -> Grant {
        self.granted(ruleset, class)
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        let block = self.ports.get(&(key.set, key.protocol, key.block));
        block.is_some_and(|b| b.contains(port))
    }
}
