//! Limits the space of Services in the kernel's tables: each namespace has a share, so that none
//! fills a table at the expense of others.
//!
//! A Service takes one entry for each address, and one for each combination of address and port.
//! The author of a Service may list thousands of each.
//!
//! A Service whose ports don't fit lists none: packets to its addresses are checked against policy
//! on any port, and once more after DNAT. A Service whose addresses don't fit is hidden: nothing
//! identifies them as a Service's. As long as any Service is hidden, all addresses are treated as
//! those of a Service without listed ports
//! ([`Control::HIDES_SERVICES`](ringfence_ebpf::abi::Control::HIDES_SERVICES)). The same applies
//! while a Service has no room in the agent's memory (`memory.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringfence_ebpf::abi::{Addr, capacity};

use crate::{
    intern::Text,
    model::{Forwarded, Service},
};

use super::{Index, owners::ServiceClaim, ranges};

/// Maximum number of address and port combinations of all namespaces.
const PORTS: usize = capacity::SERVICES as usize;
/// Maximum number of addresses of all namespaces: the rest is for pods and nodes.
const ADDRESSES: usize = capacity::ADDRESSES as usize / 4;
/// The step by which the number of addresses shrinks when pods and nodes need more.
const STEP: usize = ADDRESSES / 16;

/// Returns how many addresses Services may have next to `others` of pods and nodes.
const fn beside(others: usize) -> usize {
    let left = (capacity::ADDRESSES as usize).saturating_sub(others);
    let left = left / STEP * STEP;
    if left < ADDRESSES { left } else { ADDRESSES }
}

/// Namespace and name.
type Key = (String, String);

/// How much of a Service fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// All of it.
    Listed,
    /// Its addresses, but not its ports.
    Unlisted,
    /// Nothing.
    Hidden,
}

/// The entries that a Service asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    addresses: usize,
    ports: usize,
}

impl Asked {
    fn of(forwarded: &[Forwarded]) -> Self {
        Self {
            addresses: forwarded.len(),
            ports: forwarded.iter().map(|one| one.ports.len()).sum(),
        }
    }
}

/// One table: what each namespace asks for, and what it gets.
#[derive(Clone, Debug)]
struct Share {
    asked: BTreeMap<String, usize>,
    total: usize,
    /// Entries of all namespaces together.
    all: usize,
    /// Maximum number of entries of each namespace.
    each: usize,
}

impl Share {
    fn new(all: usize) -> Self {
        Self {
            asked: BTreeMap::new(),
            total: 0,
            all,
            each: all / 4,
        }
    }

    /// Counts the change of what a namespace asks for.
    fn count(&mut self, namespace: &str, before: usize, now: usize) {
        let asked = self.asked.entry(namespace.to_owned()).or_default();
        *asked = *asked + now - before;
        if *asked == 0 {
            self.asked.remove(namespace);
        }
        self.total = self.total + now - before;
    }

    /// Computes how much each namespace may have so that everything fits, independent of the order
    /// of arrival: a quarter, halved until the total fits. Returns the namespaces affected by a new
    /// limit.
    fn level(&mut self) -> Vec<String> {
        let mut each = self.all / 4;
        if self.total > self.all {
            let given = |each: usize| self.asked.values().map(|n| (*n).min(each)).sum::<usize>();
            while each > 0 && given(each) > self.all {
                each /= 2;
            }
        }
        let least = each.min(self.each);
        if std::mem::replace(&mut self.each, each) == each {
            return Vec::new();
        }
        let all = self.asked.iter();
        let large = all.filter(|(_, asked)| **asked > least);
        large.map(|(name, _)| name.clone()).collect()
    }

    fn is_enough(&self, namespace: &str) -> bool {
        self.asked.get(namespace).is_none_or(|n| *n <= self.each)
    }
}

/// What each Service asks for and what it gets.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    addresses: Share,
    ports: Share,
    asked: BTreeMap<Key, Asked>,
    /// Services that don't fit completely; never [`Fit::Listed`].
    left_out: BTreeMap<Key, Fit>,
    /// How many of them are hidden.
    hidden: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            addresses: Share::new(ADDRESSES),
            ports: Share::new(PORTS),
            asked: BTreeMap::new(),
            left_out: BTreeMap::new(),
            hidden: 0,
        }
    }
}

impl Shares {
    /// Counts what a Service asks for now.
    fn count(&mut self, key: &Key, now: Asked) {
        let before = match now == Asked::default() {
            true => self.asked.remove(key),
            false => self.asked.insert(key.clone(), now),
        };
        let before = before.unwrap_or_default();
        let (namespace, _) = key;
        self.addresses
            .count(namespace, before.addresses, now.addresses);
        self.ports.count(namespace, before.ports, now.ports);
    }

    fn fit(&self, key: &Key) -> Fit {
        self.left_out.get(key).copied().unwrap_or(Fit::Listed)
    }

    fn set(&mut self, key: &Key, fit: Fit) {
        let before = match fit {
            Fit::Listed => self.left_out.remove(key),
            fit => self.left_out.insert(key.clone(), fit),
        };
        self.hidden += usize::from(fit == Fit::Hidden);
        self.hidden -= usize::from(before == Some(Fit::Hidden));
    }

    /// Decides which Services fit, after a change of what `namespace` asks for. Returns the
    /// Services whose fit changed, with their previous fit.
    fn share_out(&mut self, namespace: Option<&str>) -> Vec<(Key, Fit)> {
        let mut concerned: BTreeSet<String> = namespace.map(str::to_owned).into_iter().collect();
        concerned.extend(self.addresses.level());
        concerned.extend(self.ports.level());
        let mut turned = Vec::new();
        for namespace in &concerned {
            self.share_out_in(namespace, &mut turned);
        }
        turned
    }

    /// Admits as many Services of a namespace as fit, in the order of their names.
    fn share_out_in(&mut self, namespace: &str, turned: &mut Vec<(Key, Fit)>) {
        let first = (namespace.to_owned(), String::new());
        let is_here = |key: &Key| key.0 == namespace;
        let out = self.left_out.range(first.clone()..);
        let out: Vec<Key> = out
            .map(|(key, _)| key)
            .take_while(|key| is_here(key))
            .cloned()
            .collect();
        let fit = self.addresses.is_enough(namespace) && self.ports.is_enough(namespace);
        if out.is_empty() && fit {
            return;
        }
        let services = self.asked.range(first..);
        let services = services.take_while(|(key, _)| is_here(key));
        let services: Vec<(Key, Asked)> = services.map(|(k, asked)| (k.clone(), *asked)).collect();
        let (mut addresses, mut ports) = (0, 0);
        for (key, asked) in services {
            let before = self.fit(&key);
            let now = if addresses + asked.addresses > self.addresses.each {
                Fit::Hidden
            } else {
                addresses += asked.addresses;
                if ports + asked.ports > self.ports.each {
                    Fit::Unlisted
                } else {
                    ports += asked.ports;
                    Fit::Listed
                }
            };
            self.set(&key, now);
            if before != now {
                turned.push((key, before));
            }
        }
        for key in out {
            if !self.asked.contains_key(&key) {
                self.set(&key, Fit::Listed);
            }
        }
    }
}

impl Index {
    /// Stores a Service, or removes it with `None`, and applies the effects on other Services.
    pub(super) fn show_service(&mut self, key: &Key, service: Option<Service>) {
        let service = self.admit_service(key, service);
        let now = service.as_ref().map(Service::forwarded).unwrap_or_default();
        let old = match service {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(key),
        };
        let [was, is] = [old.as_ref(), self.services.get(key)]
            .map(|service| service.map(ranges::balancers).unwrap_or_default());
        self.show_balancers(&was, &is);
        let old = old.map(|old| old.forwarded()).unwrap_or_default();
        let before = self.claims(key, old, self.shares.fit(key));
        self.shares.count(key, Asked::of(&now));
        self.shares.addresses.all = beside(self.owners.len());
        let turned = self.shares.share_out(Some(&key.0));
        let now = self.claims(key, now, self.shares.fit(key));
        self.claim_anew(before, now);
        self.turn(turned.into_iter().filter(|(other, _)| other != key));
    }

    /// Adjusts the space for Services to what pods and nodes leave.
    pub(crate) fn make_room_for_pods(&mut self) {
        let all = beside(self.owners.len());
        if std::mem::replace(&mut self.shares.addresses.all, all) != all {
            let turned = self.shares.share_out(None);
            self.turn(turned.into_iter());
        }
    }

    /// Updates the claims of Services whose fit changed.
    fn turn(&mut self, services: impl Iterator<Item = (Key, Fit)>) {
        for (key, before) in services {
            let Some(forwarded) = self.services.get(&key).map(Service::forwarded) else {
                continue;
            };
            let before = self.claims(&key, forwarded.clone(), before);
            let now = self.claims(&key, forwarded, self.shares.fit(&key));
            self.claim_anew(before, now);
        }
    }

    /// Returns the Services whose ports don't fit into the shares of their namespaces, and whether
    /// their addresses don't fit either.
    pub(crate) fn unlisted_services(&self) -> impl Iterator<Item = (&Key, bool)> {
        let all = self.shares.left_out.iter();
        all.map(|(key, fit)| (key, *fit == Fit::Hidden))
    }

    /// Reports whether the addresses of some Service are missing from the tables.
    pub(crate) fn hides_services(&self) -> bool {
        self.shares.hidden > 0 || self.refuses_services()
    }

    /// Returns the addresses that a Service shows with its ports. The ports are empty if they don't
    /// fit; there are no addresses if it is hidden.
    fn claims(&mut self, key: &Key, forwarded: Vec<Forwarded>, fit: Fit) -> BTreeSet<Claim> {
        if fit == Fit::Hidden {
            return BTreeSet::new();
        }
        let name: Text = self
            .pools
            .texts
            .get(format!("{}/{}", key.0, key.1).as_str());
        let claim = |one: Forwarded| {
            let claim = ServiceClaim {
                foreign: !one.own,
                name: Arc::clone(&name),
                ports: match fit {
                    Fit::Listed => one.ports,
                    Fit::Unlisted | Fit::Hidden => Arc::default(),
                },
            };
            (Addr::from(one.address), claim)
        };
        forwarded.into_iter().map(claim).collect()
    }

    fn claim_anew(&mut self, before: BTreeSet<Claim>, now: BTreeSet<Claim>) {
        for (addr, claim) in before.difference(&now) {
            self.owners.remove_service(addr, &claim.name);
            self.journal.note(|j| &mut j.addresses, *addr);
        }
        for (addr, claim) in now.difference(&before) {
            self.owners.add_service(*addr, claim.clone());
            self.journal.note(|j| &mut j.addresses, *addr);
        }
    }
}

type Claim = (Addr, ServiceClaim);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_nodes_get_what_room_services_leave_and_take_what_more_they_need() {
        let capacity = capacity::ADDRESSES as usize;
        assert_eq!(beside(0), ADDRESSES);
        assert_eq!(beside(capacity - ADDRESSES), ADDRESSES);
        assert_eq!(beside(capacity - ADDRESSES + 1), ADDRESSES - STEP);
        for others in (0..=capacity).step_by(STEP / 3) {
            assert!(others + beside(others) <= capacity, "{others}");
        }
        assert_eq!(beside(capacity + 1), 0);
    }
}
