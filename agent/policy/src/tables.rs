//! The output of a compilation: the entries of every policy map, ordered.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ringfence_ebpf::{
    abi::{Addr, Buffer, EndpointRules, Grant, Identity, PortBlock, PortKey, ServiceKey, Tiers},
    verdict::PolicyTables,
};

use crate::{index::PodKey, prefix};

/// One generation of policy, without the buffer bit that the maps add.
///
/// Equal objects give equal tables, so two generations can be compared entry by entry. Ids are
/// hashes of their content, so an unrelated change doesn't renumber them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Peer class of exact addresses, where it differs from the class given by `cidrs`.
    pub classes: BTreeMap<Addr, u32>,
    /// Peer class by prefix: address, and length in 0..=128 in the 128-bit form (96 + n for
    /// IPv4's /n). The longest prefix wins.
    pub cidrs: BTreeMap<(Addr, u8), u32>,
    /// Grants of a ruleset by class. A class without an entry gets the grant of class 0, or
    /// nothing if class 0 has no entry either: see [`Tables::granted`].
    pub rules: BTreeMap<(u32, u32), Grant>,
    /// Single ports and ranges by port set (low four bits cleared), IANA protocol
    /// number, and port divided by 256 or [`PortKey::SUMMARY`].
    pub ports: BTreeMap<(u32, u16, u16), PortBlock>,
    /// The pods in scope: not finished, not in a node's network namespace.
    pub endpoints: BTreeMap<PodKey, EndpointPolicy>,
    /// Workload and bits of [`ringfence_ebpf::abi::Identity`] for the address of every known pod
    /// and node; for a Service's address, its `namespace/name`.
    pub identities: BTreeMap<Addr, (Arc<str>, u32)>,
    /// The ports that Services expose at their addresses.
    pub services: BTreeMap<ServiceKey, ()>,
    /// Identity assigned to addresses without a known owner, by prefix as in `cidrs`:
    /// [`Identity::UNKNOWN_POD`](ringfence_ebpf::abi::Identity::UNKNOWN_POD) in pod ranges,
    /// [`Identity::OUTSIDE`](ringfence_ebpf::abi::Identity::OUTSIDE) at load balancers' addresses
    /// within them and wherever no prefix matches.
    pub ranges: BTreeMap<(Addr, u8), u32>,
    /// Whether some Services' addresses are missing from `identities` for lack of space. Any
    /// address without an entry may then be a Service's.
    pub hides_services: bool,
}

/// The policy that applies to one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// `namespace/service`.
    pub workload: String,
    /// Its addresses; empty before it has any, and if another pod shows the same address.
    pub addresses: Vec<IpAddr>,
    /// Ruleset for packets to the pod; 0 if no policy isolates its ingress.
    pub ingress: u32,
    /// Ruleset for packets from the pod; 0 if no policy isolates its egress.
    pub egress: u32,
    /// Flags defined as constants of [`EndpointRules`].
    pub flags: u32,
    /// Rulesets of the ClusterNetworkPolicies alone.
    pub tiers: Tiers,
}

impl EndpointPolicy {
    /// Returns the endpoint's rules for one buffer of its kernel entry, with epoch 0.
    pub fn rules(&self) -> EndpointRules {
        EndpointRules {
            ingress: self.ingress,
            egress: self.egress,
            flags: self.flags,
            epoch: 0,
        }
    }

    /// Returns the rules for traffic with the pod's own node, and with itself behind a Service.
    pub fn exempt_rules(&self) -> EndpointRules {
        let Tiers { ingress, egress } = self.tiers;
        let mut flags = self.flags & !EndpointRules::QUARANTINE;
        if ingress == 0 {
            flags &= !(EndpointRules::INGRESS_ISOLATED | EndpointRules::INGRESS_STAGED);
        }
        if egress == 0 {
            flags &= !(EndpointRules::EGRESS_ISOLATED | EndpointRules::EGRESS_STAGED);
        }
        EndpointRules {
            ingress,
            egress,
            flags,
            epoch: 0,
        }
    }
}

impl Tables {
    /// Returns the ports that Services expose at an address.
    pub(crate) fn service_ports(&self, addr: Addr) -> impl Iterator<Item = ServiceKey> {
        let key = |protocol, port| ServiceKey {
            addr,
            protocol,
            port,
        };
        let all = key(0, 0)..=key(u16::MAX, u16::MAX);
        self.services.range(all).map(|(key, ())| *key)
    }

    /// Returns the identity assigned to an address without a known owner.
    pub fn range_of(&self, addr: &Addr) -> u32 {
        let found = prefix::longest(&self.ranges, addr, 128);
        found.map_or(Identity::OUTSIDE, |(_, workload)| *workload)
    }

    /// Returns a ruleset's grant for a class.
    pub fn granted(&self, ruleset: u32, class: u32) -> Grant {
        let rule = |class: u32| self.rules.get(&(ruleset, class)).copied();
        rule(class).or_else(|| rule(0)).unwrap_or_default()
    }

    /// Returns the class of an address according to prefixes alone.
    pub(crate) fn class_by_prefix(&self, addr: &Addr, max: u8) -> u32 {
        prefix::longest(&self.cidrs, addr, max).map_or(0, |(_, class)| *class)
    }

    /// Returns the class of an address.
    pub fn class_of(&self, addr: &Addr) -> u32 {
        match self.classes.get(addr) {
            Some(class) => *class,
            None => self.class_by_prefix(addr, 128),
        }
    }
}

impl PolicyTables for Tables {
    fn class(&self, _: Buffer, addr: &Addr) -> u32 {
        self.class_of(addr)
    }

    fn grant(&self, _: Buffer, ruleset: u32, class: u32) -> Grant {
        self.granted(ruleset, class)
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        let block = self.ports.get(&(key.set, key.protocol, key.block));
        block.is_some_and(|b| b.contains(port))
    }
}
