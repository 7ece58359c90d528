//! An occupied slot, and how its entry in the kernel is derived: pure.

use ringfence_ebpf::abi::{Addr, Buffer, Endpoint, EndpointRules, Mac};
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::{EndpointPolicy, Tables};

use super::endpoints::Desired;
use crate::runtime::FoundBy;

/// Isolated in both directions, with nothing allowed.
pub(super) const CLOSED: EndpointRules = EndpointRules {
    ingress: 0,
    egress: 0,
    flags: EndpointRules::INGRESS_ISOLATED | EndpointRules::EGRESS_ISOLATED,
    epoch: 0,
};

/// One occupied slot.
#[derive(Clone, Debug)]
pub(super) struct Occupant {
    pub(super) endpoint: Endpoint,
    /// `None` after a restart until its pod is seen again, and after its pod has gone while the
    /// interface still exists.
    pub(super) pod: Option<PodKey>,
    /// The last pod, for display only: no decision depends on it.
    pub(super) last: Option<PodKey>,
    pub(super) name: String,
    /// The source of the information that the device belongs to the pod.
    pub(super) by: FoundBy,
    /// It was open under another version of the tables, and is closed here only until its policy
    /// is written.
    pub(super) carried: bool,
}

impl Occupant {
    fn is_closed(&self) -> bool {
        let mut both = self.endpoint.rules.iter();
        both.any(|rules| same_policy(rules, &CLOSED))
    }

    /// Records that the pod has gone.
    pub(super) fn leave(&mut self) {
        if let Some(pod) = self.pod.take() {
            self.last = Some(pod);
        }
    }

    /// Reports whether the pod is gone, judging by the rules in force; after a restart it may only
    /// be unknown so far.
    pub(super) fn is_left(&self, rules: &EndpointRules) -> bool {
        self.pod.is_none() && (self.last.is_some() || same_policy(rules, &CLOSED))
    }

    /// Returns this endpoint with the addresses it has gained since, if it is still the one of
    /// `pod`. `None` if it is a different endpoint, which inherits nothing.
    ///
    /// The MAC stays the one that was seen first: later values read inside the pod's namespace are
    /// claims of the pod.
    pub(super) fn taken_by(&self, pod: &PodKey, wanted: &Endpoint) -> Option<Endpoint> {
        let held = &self.endpoint;
        let same = |a: &Addr, b: &Addr| a == b && *a != Addr::UNSPECIFIED;
        let known = match &self.pod {
            Some(known) => known == pod,
            None => same(&held.v4, &wanted.v4) || same(&held.v6, &wanted.v6),
        };
        let (v4, v6) = (merged(held.v4, wanted.v4)?, merged(held.v6, wanted.v6)?);
        known.then_some(Endpoint { v4, v6, ..*held })
    }
}

/// Returns the wanted address, or the held one if none is known for now; `None` if they differ.
fn merged(held: Addr, wanted: Addr) -> Option<Addr> {
    match (held, wanted) {
        (held, Addr::UNSPECIFIED) => Some(held),
        (Addr::UNSPECIFIED, wanted) => Some(wanted),
        (held, wanted) => (held == wanted).then_some(held),
    }
}

/// Returns the pod of a slot: the known one, or after a restart the pod that has its addresses. A
/// slot that was closed because its pod is gone belongs to no pod: its address may have been given
/// to another pod by now.
pub(super) fn owner(occupant: &Occupant, tables: &Tables) -> Option<PodKey> {
    match &occupant.pod {
        Some(pod) => tables.endpoints.contains_key(pod).then(|| pod.clone()),
        None if !occupant.carried && occupant.is_closed() => None,
        None => tables
            .endpoints
            .iter()
            .find(|(_, policy)| {
                let wanted = [occupant.endpoint.v4, occupant.endpoint.v6];
                addresses(policy) == wanted
            })
            .map(|(pod, _)| pod.clone()),
    }
}

/// Returns a pod's first address of each family, IPv4 first.
pub(super) fn addresses(policy: &EndpointPolicy) -> [Addr; 2] {
    [true, false].map(|v4| {
        let first = policy.addresses.iter().find(|ip| ip.is_ipv4() == v4);
        first.map_or(Addr::UNSPECIFIED, |ip| Addr::from(*ip))
    })
}

/// Returns an endpoint with the restrictions of its policy applied to the rules of both buffers at
/// once, whatever else these contain: cut off under quarantine, closed without a policy. If that
/// is a change, connections are decided again.
pub(super) fn cut(endpoint: &Endpoint, policy: Option<&EndpointPolicy>) -> Endpoint {
    let quarantine = policy.is_some_and(|p| p.flags & EndpointRules::QUARANTINE != 0);
    let both = endpoint.rules.map(|rules| match policy {
        None => EndpointRules {
            epoch: rules.epoch,
            ..CLOSED
        },
        Some(_) if quarantine => EndpointRules {
            flags: rules.flags | EndpointRules::QUARANTINE,
            ..rules
        },
        Some(_) => rules,
    });
    let mut cut = *endpoint;
    if both != endpoint.rules {
        let [a, b] = endpoint.rules.map(|rules| rules.epoch);
        let epoch = a.max(b).wrapping_add(1);
        cut.rules = both.map(|rules| EndpointRules { epoch, ..rules });
    }
    cut
}

pub(super) fn same_policy(a: &EndpointRules, b: &EndpointRules) -> bool {
    (a.ingress, a.egress, a.flags) == (b.ingress, b.egress, b.flags)
}

pub(super) fn identity(wanted: &Desired<'_>) -> Endpoint {
    let mac = wanted.interface.mac;
    let [v4, v6] = addresses(wanted.policy);
    Endpoint {
        ifindex: wanted.interface.ifindex,
        workload: wanted.workload,
        v4,
        v6,
        link_local: link_local(mac),
        mac: Mac::new(mac),
        ..Endpoint::default()
    }
}

/// Returns the link-local address derived from a MAC (RFC 4291, appendix A).
pub(super) fn link_local(mac: [u8; 6]) -> Addr {
    let [a, b, c, d, e, f] = mac;
    Addr::v6([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// Returns the slots that an interface may occupy. Slot 0 is never used.
pub(super) fn probes(ifindex: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(Endpoint::home_slot(ifindex)), |slot| {
        Some(Endpoint::next_slot(*slot))
    })
    .take(Endpoint::PROBES as usize)
    .filter(|slot| *slot != 0)
}

pub(super) const fn side(buffer: Buffer) -> usize {
    (buffer & 1) as usize
}

/// Reports whether nothing is denied in a direction, or would be without audit mode.
fn is_open(flags: u32, side: &Side) -> bool {
    flags & (side.isolated | side.staged | EndpointRules::QUARANTINE) == 0
}

/// The flags of one direction.
pub(super) struct Side {
    isolated: u32,
    staged: u32,
}

impl Side {
    pub(super) const INGRESS: Self = Self {
        isolated: EndpointRules::INGRESS_ISOLATED,
        staged: EndpointRules::INGRESS_STAGED,
    };
    pub(super) const EGRESS: Self = Self {
        isolated: EndpointRules::EGRESS_ISOLATED,
        staged: EndpointRules::EGRESS_STAGED,
    };
}

/// Returns what is displayed for one direction of an endpoint. In an agent in audit mode nothing
/// is dropped, whatever the rules are.
pub(super) fn word(known: bool, flags: u32, side: Side, audits: bool) -> &'static str {
    match flags {
        _ if audits && !(known && is_open(flags, &side)) => "audit",
        _ if !known => "closed",
        _ if flags & EndpointRules::QUARANTINE != 0 => "quarantine",
        _ if flags & side.isolated != 0 => "enforce",
        _ if flags & side.staged != 0 => "audit",
        _ => "open",
    }
}

#[cfg(test)]
mod tests {
    use ringfence_ebpf::abi::capacity;

    use super::*;

    #[test]
    fn a_link_local_address_is_made_from_the_mac() {
        let addr = link_local([0x02, 0x00, 0x5e, 0x10, 0x00, 0x01]);
        assert_eq!(addr.to_string(), "fe80::5eff:fe10:1");
    }

    fn occupant(pod: Option<&str>) -> Occupant {
        let endpoint = Endpoint {
            v4: Addr::v4([10, 0, 0, 1]),
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            ..Endpoint::default()
        };
        Occupant {
            last: None,
            endpoint,
            pod: pod.map(key),
            name: String::new(),
            by: FoundBy::Claim,
            carried: false,
        }
    }

    fn key(name: &str) -> PodKey {
        PodKey {
            name: name.to_owned(),
            ..PodKey::default()
        }
    }

    #[test]
    fn an_endpoint_goes_on_when_it_gets_its_second_address_or_forges_its_mac() {
        let mut wanted = occupant(None).endpoint;
        wanted.v6 = Addr::v6([0xfd; 16]);
        wanted.mac = Mac::new([2, 9, 9, 9, 9, 9]);
        for pod in [Some("a"), None] {
            let merged = occupant(pod)
                .taken_by(&key("a"), &wanted)
                .expect("the same");
            assert_eq!(merged.v6, wanted.v6);
            assert_eq!(merged.mac, occupant(None).endpoint.mac);
        }
    }

    #[test]
    fn another_pod_or_another_address_inherits_nothing() {
        let wanted = occupant(None).endpoint;
        assert_eq!(occupant(Some("a")).taken_by(&key("b"), &wanted), None);
        let moved = Endpoint {
            v4: Addr::v4([10, 0, 0, 2]),
            ..wanted
        };
        assert_eq!(occupant(Some("a")).taken_by(&key("a"), &moved), None);
        assert_eq!(occupant(None).taken_by(&key("a"), &moved), None);
    }

    #[test]
    fn an_endpoint_whose_address_is_not_known_for_now_keeps_it() {
        let unknown = Endpoint::default();
        let merged = occupant(Some("a")).taken_by(&key("a"), &unknown);
        assert_eq!(merged, Some(occupant(None).endpoint));
    }

    #[test]
    fn a_quarantine_is_added_to_both_halves_and_raises_their_epochs_once() {
        let mut held = occupant(Some("a")).endpoint;
        held.rules[0].ingress = 5;
        (held.rules[0].epoch, held.rules[1].epoch) = (3, 4);
        let policy = EndpointPolicy {
            flags: EndpointRules::QUARANTINE | EndpointRules::INGRESS_ISOLATED,
            ingress: 9,
            ..EndpointPolicy::default()
        };
        let now = cut(&held, Some(&policy));
        let rules = |ingress| EndpointRules {
            ingress,
            flags: EndpointRules::QUARANTINE,
            epoch: 5,
            ..EndpointRules::default()
        };
        assert_eq!(now.rules, [rules(5), rules(0)]);
        assert_eq!(cut(&now, Some(&policy)), now);
        // Changes that only allow more wait for the tables.
        assert_eq!(cut(&now, Some(&EndpointPolicy::default())), now);
    }

    #[test]
    fn an_endpoint_without_a_pod_is_closed_in_both_halves() {
        let held = occupant(None).endpoint;
        let closed = cut(&held, None);
        let rules = EndpointRules { epoch: 1, ..CLOSED };
        assert_eq!(closed.rules, [rules; 2]);
        assert_eq!(cut(&closed, None), closed);
    }

    #[test]
    fn in_an_agent_that_audits_nothing_is_said_to_be_closed() {
        const ISOLATED: u32 = EndpointRules::INGRESS_ISOLATED;
        const STAGED: u32 = EndpointRules::INGRESS_STAGED;
        let cases = [
            (true, ISOLATED, "enforce"),
            (true, ISOLATED | EndpointRules::QUARANTINE, "quarantine"),
            (true, STAGED, "audit"),
            (true, EndpointRules::EGRESS_ISOLATED, "open"),
            (false, ISOLATED, "closed"),
            (false, 0, "closed"),
        ];
        for (known, flags, enforced) in cases {
            let said = [false, true].map(|audits| word(known, flags, Side::INGRESS, audits));
            let audited = if enforced == "open" { "open" } else { "audit" };
            assert_eq!(said, [enforced, audited], "{known} {flags}");
        }
    }

    #[test]
    fn a_slot_remembers_whose_it_was_and_is_left_once_that_pod_is_gone() {
        let open = EndpointRules::default();
        let mut held = occupant(Some("a"));
        assert!(!held.is_left(&CLOSED), "closed, and there");
        held.leave();
        held.leave();
        assert_eq!(
            (held.pod.clone(), held.last.clone()),
            (None, Some(key("a")))
        );
        assert!(held.is_left(&open));
        // After a restart the pod may only be unknown so far.
        let pinned = occupant(None);
        assert!(!pinned.is_left(&open) && pinned.is_left(&CLOSED));
    }

    #[test]
    fn probing_stays_within_the_slots_and_never_meets_slot_zero() {
        for ifindex in [1, 32_766, 32_767, 32_768, u32::MAX] {
            let slots: Vec<u32> = probes(ifindex).collect();
            assert!(slots.len() >= 7);
            assert!(
                slots
                    .iter()
                    .all(|slot| (1..capacity::ENDPOINTS).contains(slot))
            );
        }
    }
}
