//! Copies of an index with something changed, to be asked what would be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringfence_ebpf::abi::Addr;

use crate::intern::HashSet;

use super::{Index, groups::PodId};

impl Index {
    /// A copy in which every live pod has an address: made-up ones of 240.0.0.0/4, and of
    /// 100::/64 where the cluster has IPv6, for workloads that stand for their pods, and
    /// for pods that have none of their own. Those lie in no block but whole families:
    /// nobody knows where the pod's real ones will be. Pods keep their indexes.
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

    /// Whether pods have IPv4 and IPv6 addresses, as known pods show it, else nodes; IPv4
    /// alone where neither shows any.
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

    /// Sets a label of a pod, or removes it.
    pub(crate) fn set_label(&mut self, id: PodId, key: &str, value: Option<&str>) {
        self.change_pod(id, |pod, config, pools| {
            *pod = pod.relabelled(config, pools, key, value);
        });
    }
}

/// The made-up addresses of a number, of the families that there are.
fn made_up(number: u32, [four, six]: [bool; 2]) -> Vec<IpAddr> {
    let v4 = u32::from(Ipv4Addr::new(240, 0, 0, 0)) + number;
    let v6 = u128::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0)) + u128::from(number);
    let v4 = four.then(|| IpAddr::V4(v4.into()));
    let v6 = six.then(|| IpAddr::V6(v6.into()));
    v4.into_iter().chain(v6).collect()
}
