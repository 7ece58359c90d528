//! One occupied slot, and what its kernel entry is made of: pure.

use ringfence_ebpf::abi::{Addr, Endpoint, EndpointWorld, Mac, World};
use ringfence_policy::index::PodKey;
use ringfence_policy::tables::{EndpointPolicy, Tables};

use super::endpoints::Wanted;
use crate::runtime::FoundBy;

/// Isolated both ways with nothing granted.
pub(super) const CLOSED: EndpointWorld = EndpointWorld {
    ingress: 0,
    egress: 0,
    flags: EndpointWorld::INGRESS_ISOLATED | EndpointWorld::EGRESS_ISOLATED,
    epoch: 0,
};

/// One occupied slot.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) endpoint: Endpoint,
    /// `None` after a restart, until its pod is seen again, and after its pod
    /// has gone while the interface is still there.
    pub(super) pod: Option<PodKey>,
    /// Whose it was, for people: nothing is decided by it.
    pub(super) last: Option<PodKey>,
    pub(super) name: String,
    /// What told whose it is.
    pub(super) by: FoundBy,
    /// It was open under another version of the tables, and is closed here only until its
    /// policy is written.
    pub(super) carried: bool,
}

impl Seat {
    fn is_closed(&self) -> bool {
        let mut halves = self.endpoint.worlds.iter();
        halves.any(|half| same_policy(half, &CLOSED))
    }

    /// Its pod has gone.
    pub(super) fn leave(&mut self) {
        if let Some(pod) = self.pod.take() {
            self.last = Some(pod);
        }
    }

    /// Whether its pod is gone, by what is in force; after a restart it may only not be
    /// known yet.
    pub(super) fn is_left(&self, half: &EndpointWorld) -> bool {
        self.pod.is_none() && (self.last.is_some() || same_policy(half, &CLOSED))
    }

    /// This endpoint as it is when a pod sits on here: itself with the addresses
    /// that it has got since. `None` if it is another endpoint, which inherits
    /// nothing.
    ///
    /// The MAC stays the one of the first sight: what is read inside the pod's
    /// namespace later on is what the pod says of itself.
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

/// An address that comes, or stays where none is known for now.
fn merged(held: Addr, wanted: Addr) -> Option<Addr> {
    match (held, wanted) {
        (held, Addr::UNSPECIFIED) => Some(held),
        (Addr::UNSPECIFIED, wanted) => Some(wanted),
        (held, wanted) => (held == wanted).then_some(held),
    }
}

/// The pod of a slot: as it was known, or after a restart by its addresses. A
/// slot that was closed because its pod had gone is nobody's: another pod may
/// have its address by now.
pub(super) fn owner(seat: &Seat, tables: &Tables) -> Option<PodKey> {
    match &seat.pod {
        Some(pod) => tables.endpoints.contains_key(pod).then(|| pod.clone()),
        None if !seat.carried && seat.is_closed() => None,
        None => tables
            .endpoints
            .iter()
            .find(|(_, policy)| {
                let wanted = [seat.endpoint.v4, seat.endpoint.v6];
                addresses(policy) == wanted
            })
            .map(|(pod, _)| pod.clone()),
    }
}

/// A pod's first address of each family, IPv4 first.
pub(super) fn addresses(policy: &EndpointPolicy) -> [Addr; 2] {
    [true, false].map(|v4| {
        let first = policy.addresses.iter().find(|ip| ip.is_ipv4() == v4);
        first.map_or(Addr::UNSPECIFIED, |ip| Addr::from(*ip))
    })
}

/// An endpoint with what its policy takes at once in both halves, whatever else
/// they hold: cut off under quarantine, closed without a policy. Flows are decided
/// once more if that is new.
pub(super) fn cut(endpoint: &Endpoint, policy: Option<&EndpointPolicy>) -> Endpoint {
    let quarantine = policy.is_some_and(|p| p.flags & EndpointWorld::QUARANTINE != 0);
    let halves = endpoint.worlds.map(|half| match policy {
        None => EndpointWorld {
            epoch: half.epoch,
            ..CLOSED
        },
        Some(_) if quarantine => EndpointWorld {
            flags: half.flags | EndpointWorld::QUARANTINE,
            ..half
        },
        Some(_) => half,
    });
    let mut cut = *endpoint;
    if halves != endpoint.worlds {
        let [a, b] = endpoint.worlds.map(|half| half.epoch);
        let epoch = a.max(b).wrapping_add(1);
        cut.worlds = halves.map(|half| EndpointWorld { epoch, ..half });
    }
    cut
}

pub(super) fn same_policy(a: &EndpointWorld, b: &EndpointWorld) -> bool {
    (a.ingress, a.egress, a.flags) == (b.ingress, b.egress, b.flags)
}

pub(super) fn identity(wanted: &Wanted<'_>) -> Endpoint {
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

/// The link-local address made from a MAC (RFC 4291, appendix A).
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

/// The slots where an interface may sit. Slot 0 is nobody's.
pub(super) fn probes(ifindex: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(Endpoint::home_slot(ifindex)), |slot| {
        Some(Endpoint::next_slot(*slot))
    })
    .take(Endpoint::PROBES as usize)
    .filter(|slot| *slot != 0)
}

pub(super) const fn side(world: World) -> usize {
    (world & 1) as usize
}

/// Whether nothing is dropped in a direction, nor would be.
fn is_open(flags: u32, side: &Side) -> bool {
    flags & (side.isolated | side.staged | EndpointWorld::QUARANTINE) == 0
}

/// The flags of one direction.
pub(super) struct Side {
    isolated: u32,
    staged: u32,
}

impl Side {
    pub(super) const INGRESS: Self = Self {
        isolated: EndpointWorld::INGRESS_ISOLATED,
        staged: EndpointWorld::INGRESS_STAGED,
    };
    pub(super) const EGRESS: Self = Self {
        isolated: EndpointWorld::EGRESS_ISOLATED,
        staged: EndpointWorld::EGRESS_STAGED,
    };
}

/// What one direction of an endpoint is under. Where the whole agent audits nothing is
/// dropped, whatever would be.
pub(super) fn word(known: bool, flags: u32, side: Side, audits: bool) -> &'static str {
    match flags {
        _ if audits && !(known && is_open(flags, &side)) => "audit",
        _ if !known => "closed",
        _ if flags & EndpointWorld::QUARANTINE != 0 => "quarantine",
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

    fn seat(pod: Option<&str>) -> Seat {
        let endpoint = Endpoint {
            v4: Addr::v4([10, 0, 0, 1]),
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            ..Endpoint::default()
        };
        Seat {
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
        let mut wanted = seat(None).endpoint;
        wanted.v6 = Addr::v6([0xfd; 16]);
        wanted.mac = Mac::new([2, 9, 9, 9, 9, 9]);
        for pod in [Some("a"), None] {
            let merged = seat(pod).taken_by(&key("a"), &wanted).expect("the same");
            assert_eq!(merged.v6, wanted.v6);
            assert_eq!(merged.mac, seat(None).endpoint.mac);
        }
    }

    #[test]
    fn another_pod_or_another_address_inherits_nothing() {
        let wanted = seat(None).endpoint;
        assert_eq!(seat(Some("a")).taken_by(&key("b"), &wanted), None);
        let moved = Endpoint {
            v4: Addr::v4([10, 0, 0, 2]),
            ..wanted
        };
        assert_eq!(seat(Some("a")).taken_by(&key("a"), &moved), None);
        assert_eq!(seat(None).taken_by(&key("a"), &moved), None);
    }

    #[test]
    fn an_endpoint_whose_address_is_not_known_for_now_keeps_it() {
        let unknown = Endpoint::default();
        let merged = seat(Some("a")).taken_by(&key("a"), &unknown);
        assert_eq!(merged, Some(seat(None).endpoint));
    }

    #[test]
    fn a_quarantine_is_added_to_both_halves_and_raises_their_epochs_once() {
        let mut held = seat(Some("a")).endpoint;
        held.worlds[0].ingress = 5;
        (held.worlds[0].epoch, held.worlds[1].epoch) = (3, 4);
        let policy = EndpointPolicy {
            flags: EndpointWorld::QUARANTINE | EndpointWorld::INGRESS_ISOLATED,
            ingress: 9,
            ..EndpointPolicy::default()
        };
        let now = cut(&held, Some(&policy));
        let half = |ingress| EndpointWorld {
            ingress,
            flags: EndpointWorld::QUARANTINE,
            epoch: 5,
            ..EndpointWorld::default()
        };
        assert_eq!(now.worlds, [half(5), half(0)]);
        assert_eq!(cut(&now, Some(&policy)), now);
        // What only gives waits for the tables.
        assert_eq!(cut(&now, Some(&EndpointPolicy::default())), now);
    }

    #[test]
    fn an_endpoint_without_a_pod_is_closed_in_both_halves() {
        let held = seat(None).endpoint;
        let closed = cut(&held, None);
        let half = EndpointWorld { epoch: 1, ..CLOSED };
        assert_eq!(closed.worlds, [half; 2]);
        assert_eq!(cut(&closed, None), closed);
    }

    #[test]
    fn in_an_agent_that_audits_nothing_is_said_to_be_closed() {
        const ISOLATED: u32 = EndpointWorld::INGRESS_ISOLATED;
        const STAGED: u32 = EndpointWorld::INGRESS_STAGED;
        let cases = [
            (true, ISOLATED, "enforce"),
            (true, ISOLATED | EndpointWorld::QUARANTINE, "quarantine"),
            (true, STAGED, "audit"),
            (true, EndpointWorld::EGRESS_ISOLATED, "open"),
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
    fn a_seat_remembers_whose_it_was_and_is_left_once_that_pod_is_gone() {
        let open = EndpointWorld::default();
        let mut held = seat(Some("a"));
        assert!(!held.is_left(&CLOSED), "closed, and there");
        held.leave();
        held.leave();
        assert_eq!(
            (held.pod.clone(), held.last.clone()),
            (None, Some(key("a")))
        );
        assert!(held.is_left(&open));
        // After a restart the pod may only not be known yet.
        let pinned = seat(None);
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
