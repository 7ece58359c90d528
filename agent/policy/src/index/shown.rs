//! Which Services list their ports: those that fit into the share of their
//! namespace, so that none fills the kernel's table for others.
//!
//! A Service has as many entries as it has addresses times ports, and whoever writes
//! one may name thousands of each. One that doesn't fit lists nothing: packets to its
//! addresses are judged by policy, whatever the port, and once more behind DNAT.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringfence_ebpf::abi::{Addr, capacity};

use crate::{
    intern::Text,
    model::{Forwarded, Service},
};

use super::{Index, owners::ServiceClaim};

/// Entries of all namespaces.
const ALL: usize = capacity::SERVICES as usize;
/// Entries of one namespace, as long as others leave it that much.
const MOST: usize = ALL / 4;

/// Namespace and name.
type Key = (String, String);

/// What each namespace asks for, and what it gets.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    asked: BTreeMap<String, usize>,
    total: usize,
    /// Entries that each namespace may have.
    each: usize,
    /// Services that don't fit.
    left_out: BTreeSet<Key>,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            asked: BTreeMap::new(),
            total: 0,
            each: MOST,
            left_out: BTreeSet::new(),
        }
    }
}

impl Shares {
    /// Counts what a namespace asks for now.
    fn count(&mut self, namespace: &str, before: usize, now: usize) {
        let asked = self.asked.entry(namespace.to_owned()).or_default();
        *asked = *asked + now - before;
        if *asked == 0 {
            self.asked.remove(namespace);
        }
        self.total = self.total + now - before;
    }

    /// What each may have so that all fit, whoever came first.
    fn fair(&self) -> usize {
        let mut each = MOST;
        if self.total > ALL {
            let given = |each: usize| self.asked.values().map(|n| (*n).min(each)).sum::<usize>();
            while each > 1 && given(each) > ALL {
                each /= 2;
            }
        }
        each
    }

    fn asked(&self, namespace: &str) -> usize {
        self.asked.get(namespace).copied().unwrap_or_default()
    }
}

impl Index {
    /// Takes a Service in, or out with `None`, and what that changes for others.
    pub(super) fn show_service(&mut self, key: &Key, service: Option<Service>) {
        let now = service.as_ref().map(Service::forwarded).unwrap_or_default();
        let old = match service {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(key),
        };
        let old = old.map(|old| old.forwarded()).unwrap_or_default();
        self.shares.count(&key.0, entries(&old), entries(&now));
        let before = self.claims(key, old, self.is_listed(key));
        let turned = self.share_out(&key.0);
        let now = self.claims(key, now, self.is_listed(key));
        self.claim_anew(&before, now);
        for other in turned.iter().filter(|other| *other != key) {
            let Some(forwarded) = self.services.get(other).map(Service::forwarded) else {
                continue;
            };
            let listed = self.is_listed(other);
            let before = self.claims(other, forwarded.clone(), !listed);
            let now = self.claims(other, forwarded, listed);
            self.claim_anew(&before, now);
        }
    }

    /// Services that don't fit into the shares of their namespaces.
    pub(crate) fn unlisted_services(&self) -> impl Iterator<Item = &Key> {
        self.shares.left_out.iter()
    }

    fn is_listed(&self, key: &Key) -> bool {
        !self.shares.left_out.contains(key)
    }

    /// Finds out whose Services fit; gives those of which that has changed.
    fn share_out(&mut self, namespace: &str) -> Vec<Key> {
        let each = self.shares.fair();
        let least = each.min(self.shares.each);
        let mut concerned = BTreeSet::from([namespace.to_owned()]);
        if std::mem::replace(&mut self.shares.each, each) != each {
            let all = self.shares.asked.iter();
            let large = all.filter(|(_, asked)| **asked > least);
            concerned.extend(large.map(|(name, _)| name.clone()));
        }
        let mut turned = Vec::new();
        for namespace in &concerned {
            self.share_out_in(namespace, &mut turned);
        }
        turned
    }

    /// By name, as many Services of a namespace as fit.
    fn share_out_in(&mut self, namespace: &str, turned: &mut Vec<Key>) {
        let first = (namespace.to_owned(), String::new());
        let is_here = |key: &&Key| key.0 == namespace;
        let out = self.shares.left_out.range(first.clone()..);
        let out: BTreeSet<Key> = out.take_while(is_here).cloned().collect();
        if out.is_empty() && self.shares.asked(namespace) <= self.shares.each {
            return;
        }
        let mut used = 0;
        let services = self.services.range(first..);
        for (key, service) in services.take_while(|(key, _)| key.0 == namespace) {
            let asked = entries(&service.forwarded());
            let fits = used + asked <= self.shares.each;
            if fits {
                used += asked;
                self.shares.left_out.remove(key);
            } else {
                self.shares.left_out.insert(key.clone());
            }
            if fits == out.contains(key) {
                turned.push(key.clone());
            }
        }
        for gone in out.iter().filter(|key| !self.services.contains_key(*key)) {
            self.shares.left_out.remove(gone);
        }
    }

    /// What a Service shows: its ports, or none where it doesn't fit.
    fn claims(&mut self, key: &Key, forwarded: Vec<Forwarded>, listed: bool) -> Vec<Claim> {
        let name: Text = self
            .pools
            .texts
            .get(format!("{}/{}", key.0, key.1).as_str());
        let claim = |one: Forwarded| {
            let claim = ServiceClaim {
                foreign: !one.own,
                name: Arc::clone(&name),
                ports: if listed { one.ports } else { Arc::default() },
            };
            (Addr::from(one.address), claim)
        };
        forwarded.into_iter().map(claim).collect()
    }

    fn claim_anew(&mut self, before: &[Claim], now: Vec<Claim>) {
        for (addr, claim) in before.iter().filter(|one| !now.contains(one)) {
            self.owners.remove_service(addr, &claim.name);
            self.journal.note(|j| &mut j.addresses, *addr);
        }
        for (addr, claim) in now.into_iter().filter(|one| !before.contains(one)) {
            self.owners.add_service(addr, claim);
            self.journal.note(|j| &mut j.addresses, addr);
        }
    }
}

type Claim = (Addr, ServiceClaim);

fn entries(forwarded: &[Forwarded]) -> usize {
    forwarded.iter().map(|one| one.ports.len()).sum()
}
