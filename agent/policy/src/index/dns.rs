//! The backends of cluster DNS, and the changes that affect the way to it.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    model::{EndpointSlice, Service, ServicePort},
    ports::Ports,
    select,
};

use super::{Index, PodEntry, feed::SERVICE_NAME, journal::Fact};

/// The maximum number of addresses taken from the EndpointSlices of one Service.
const FROM_SLICES: usize = 1024;

/// Returns the objects of a namespace, for a kind stored by namespace and name.
fn of_namespace<'i, T>(
    all: &'i BTreeMap<(String, String), T>,
    namespace: &str,
) -> impl Iterator<Item = &'i T> {
    let space = namespace.to_owned();
    let from = all.range((space.clone(), String::new())..);
    from.take_while(move |((found, _), _)| *found == space)
        .map(|(_, object)| object)
}

impl Index {
    /// Returns the Services of cluster DNS.
    pub(crate) fn dns_services(&self) -> impl Iterator<Item = &Service> {
        let mut spaces: Vec<&str> = self.config.dns().map(|(space, _)| space).collect();
        spaces.sort_unstable();
        spaces.dedup();
        let all = spaces.into_iter();
        all.flat_map(|space| of_namespace(&self.services, space))
            .filter(|service| self.is_dns(service))
    }

    fn is_dns(&self, service: &Service) -> bool {
        let meta = &service.metadata;
        self.config
            .is_dns((&meta.namespace, &meta.name), &meta.labels)
    }

    /// Returns the pods behind a Service that are in their node's network.
    pub(crate) fn dns_hosts(&self, service: &Service) -> impl Iterator<Item = &PodEntry> {
        let here = self.by_name.get(service.metadata.namespace.as_str());
        let pods = here.into_iter().flat_map(|pods| pods.values());
        let pods = pods.filter_map(|id| self.entry(*id));
        pods.filter(|pod| pod.host_network && !pod.finished && select::selects(service, pod))
    }

    /// Returns the addresses that EndpointSlices list for a Service, with the target ports there.
    /// Skips slices that only repeat the result of its selector.
    pub(crate) fn dns_in_slices(
        &self,
        service: &Service,
        ports: &[&ServicePort],
    ) -> Vec<(IpAddr, Ports)> {
        let meta = &service.metadata;
        let own = |slice: &&EndpointSlice| {
            slice.metadata.labels.get(SERVICE_NAME) == Some(&meta.name)
                && !slice.is_left_out()
                && (service.spec.selector.is_empty() || !slice.is_of_selector())
        };
        let slices = of_namespace(&self.slices, &meta.namespace).filter(own);
        let named = slices.flat_map(|slice| {
            let mut open = Ports::default();
            for port in ports {
                if let Some(number) = slice.behind(port) {
                    open.add(&Ports::one(port.protocol, number));
                }
            }
            let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
            let addresses = addresses.filter_map(|address| address.parse().ok());
            addresses.map(move |ip| (ip, open.clone()))
        });
        named.take(FROM_SLICES).collect()
    }

    /// Records an added or removed Service, if it is or was part of cluster DNS.
    pub(super) fn note_dns(&mut self, key: &(String, String), new: Option<&Service>) {
        let old = self.services.get(key);
        if old
            .into_iter()
            .chain(new)
            .any(|service| self.is_dns(service))
        {
            self.turn_way_to_dns();
        }
    }

    /// Records an added or removed EndpointSlice of a cluster DNS Service.
    pub(super) fn note_slice(&mut self, slice: &EndpointSlice) {
        let Some(name) = slice.metadata.labels.get(SERVICE_NAME) else {
            return;
        };
        let key = (slice.metadata.namespace.clone(), name.clone());
        if self.services.get(&key).is_some_and(|s| self.is_dns(s)) {
            self.turn_way_to_dns();
        }
    }

    /// Records an added or removed pod in its node's network, if a cluster DNS Service selects it.
    pub(super) fn note_dns_host(&mut self, pod: &PodEntry) {
        let is_behind = |service| select::selects(service, pod);
        if self.dns_services().any(is_behind) {
            self.turn_way_to_dns();
        }
    }

    /// Records that the way to cluster DNS changed.
    fn turn_way_to_dns(&mut self) {
        self.way_to_dns.take();
        self.journal.note(|j| &mut j.facts, Fact::Dns);
    }
}
