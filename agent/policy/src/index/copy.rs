//! Copies of an index with something changed, to be asked what would be.

use std::net::{IpAddr, Ipv4Addr};

use ringfence_ebpf::abi::Addr;

use crate::intern::HashSet;

use super::{Index, groups::PodId};

impl Index {
    /// A copy in which every live pod has an address: made-up ones of
    /// 240.0.0.0/4 for workloads that stand for their pods, and for pods
    /// that have none of their own. Those lie in no block but whole families:
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
        let mut next = u32::from(Ipv4Addr::new(240, 0, 0, 0));
        for (_, id) in bare {
            let ip = loop {
                next += 1;
                let ip = IpAddr::V4(next.into());
                if !taken.contains(&Addr::from(ip)) {
                    break ip;
                }
            };
            copy.made_up.insert(Addr::from(ip));
            copy.change_pod(id, |pod, _, _| {
                let shown = pod.addresses.iter().copied();
                pod.addresses = shown.chain([ip]).collect();
            });
        }
        copy
    }

    /// Sets a label of a pod, or removes it.
    pub(crate) fn set_label(&mut self, id: PodId, key: &str, value: Option<&str>) {
        self.change_pod(id, |pod, config, pools| {
            *pod = pod.relabelled(config, pools, key, value);
        });
    }
}
