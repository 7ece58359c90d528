//! Modified copies of an index, for what-if questions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_ebpf::abi::Addr;

use crate::intern::HashSet;

use super::{Index, groups::PodId};

impl Index {
    /// Returns a copy in which every live pod has an address. Pods without an address, and
    /// workloads that stand in for their pods, get made-up ones from 240.0.0.0/4, and from 100::/64
    /// if the cluster has IPv6. Made-up addresses match no block except whole families, since the
    /// real ones aren't known yet. Pods keep their indexes.
    pub(crate) fn with_made_up_addresses(&self) -> Self {
        let mut copy = self.clone();
        let mut bare: Vec<_> = self
            .live()
            .filter(|(id, _)| self.addresses_of(*id).is_empty())
            .map(|(id, pod)| (pod.key(), id))
            .collect();
        bare.sort();
        let taken: HashSet<Addr> = self.owners.all().chain(self.owners.of_services()).collect();
        let families = self.families();
        let mut next = 0;
        for (_, id) in bare {
            let made_up = loop {
                next += 1;
                let ips = made_up(next, families);
                if ips.iter().all(|ip| !taken.contains(&Addr::from(*ip))) {
                    break ips;
                }
            };
            copy.made_up
                .extend(made_up.iter().map(|ip| Addr::from(*ip)));
            copy.change_pod(id, |pod, _, _| {
                let shown = pod.addresses.iter().copied();
                pod.addresses = shown.chain(made_up).collect();
            });
        }
        copy
    }

    /// Returns whether pods have IPv4 and IPv6 addresses, judging by known pods, else by nodes;
    /// IPv4 alone if neither have any.
    fn families(&self) -> [bool; 2] {
        let has = |of: &mut dyn Iterator<Item = IpAddr>| {
            let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = of.partition(IpAddr::is_ipv4);
            [!four.is_empty(), !six.is_empty()]
        };
        let pods = self
            .live()
            .flat_map(|(_, pod)| pod.addresses.iter().copied());
        let nodes = self.owners.of_nodes().map(IpAddr::from);
        let shown = [has(&mut { pods }), has(&mut { nodes })];
        let first = shown.into_iter().find(|has| *has != [false, false]);
        first.unwrap_or([true, false])
    }

    /// Sets or removes a label of a pod.
    pub(crate) fn set_label(&mut self, id: PodId, key: &str, value: Option<&str>) {
        self.change_pod(id, |pod, config, pools| {
            *pod = pod.relabelled(config, pools, key, value);
        });
    }
}

/// Returns the made-up addresses for a number, in the given families.
fn made_up(number: u32, [four, six]: [bool; 2]) -> Vec<IpAddr> {
    let v4 = u32::from(Ipv4Addr::new(240, 0, 0, 0)) + number;
    let v6 = u128::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)) + u128::from(number);
    let v4 = four.then(|| IpAddr::V4(v4.into()));
    let v6 = six.then(|| IpAddr::V6(v6.into()));
    v4.into_iter().chain(v6).collect()
}
