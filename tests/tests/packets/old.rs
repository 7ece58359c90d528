//! Connections older than the hooks: what audit mode reports about them, and what a
//! change cuts.

use ringfence_ebpf::abi::{EndpointRules, Reason, Stat};
use ringfence_tests::packets::fixture::address;
use ringfence_tests::packets::host::{Host, SECOND};
use ringfence_tests::packets::step::{Step, from_pod, to_pod};
use ringfence_tests::packets::{Expected, Frame};

use super::{ACK, SYN, assert_step, outgoing};

const MINUTE: u64 = 60 * SECOND;

/// Writes the pod's policies into both buffers, in a new epoch.
fn policy(host: &mut Host, pod: &str, flags: u32) {
    for half in &mut host.endpoint_mut(pod).rules {
        *half = EndpointRules {
            ingress: u32::MAX,
            egress: u32::MAX,
            flags,
            epoch: half.epoch + 1,
        };
    }
}

/// Returns a segment from the stranger's server to the pod.
fn theirs() -> Frame {
    Frame::tcp(
        (address("stranger", true), 443),
        (address("plain", true), 40_000),
        ACK,
    )
}

/// Returns a segment from the pod's server to the stranger.
fn served() -> Frame {
    Frame::tcp(
        (address("plain", true), 443),
        (address("stranger", true), 40_000),
        ACK,
    )
}

fn hears() -> Step {
    to_pod("plain", &theirs())
}

fn says() -> Step {
    from_pod("plain", &theirs().reply())
}

#[test]
fn what_audit_lets_go_on_is_counted_and_ends_with_enforcement() {
    let cases = [
        (
            EndpointRules::EGRESS_STAGED,
            EndpointRules::EGRESS_ISOLATED,
            says(),
            hears(),
        ),
        (
            EndpointRules::INGRESS_STAGED,
            EndpointRules::INGRESS_ISOLATED,
            to_pod("plain", &served().reply()),
            from_pod("plain", &served()),
        ),
    ];
    for (staged, enforced, forbidden, other) in cases {
        for window in [0, 5 * SECOND] {
            for first in [&forbidden, &other] {
                let mut host = Host::default();
                policy(&mut host, "plain", staged);
                host.endpoint_mut("plain").pickup_until =
                    if window == 0 { 0 } else { host.now + window };
                let mut seen = Vec::new();
                for step in [first, &other, &forbidden, &other, &forbidden] {
                    seen.push(host.run(step));
                }
                let audited = Expected::Audit(Reason::Policy);
                assert!(seen.contains(&audited), "{staged} {window} {seen:?}");
                assert!(!seen.iter().any(|one| matches!(one, Expected::Drop(_))));
                host.now += MINUTE;
                policy(&mut host, "plain", enforced);
                for _ in 0..3 {
                    host.run(&other);
                    assert_step(&mut host, &forbidden.clone().drops(Reason::Policy));
                }
            }
        }
    }
}

#[test]
fn what_the_window_would_let_go_on_isnt_counted() {
    let mut host = Host::default();
    policy(&mut host, "plain", EndpointRules::INGRESS_STAGED);
    host.endpoint_mut("plain").pickup_until = host.now + SECOND;
    for step in [hears(), says(), hears()] {
        assert_step(&mut host, &step);
    }
}

#[test]
fn an_audited_connection_counts_once_a_minute_as_long_as_its_opener_sends() {
    let mut host = Host::default();
    policy(&mut host, "plain", EndpointRules::EGRESS_STAGED);
    let audited = says().audits(Reason::Policy);
    let syn = from_pod("plain", &theirs().reply().flags(SYN));
    assert_step(&mut host, &syn.audits(Reason::Policy));
    assert_step(&mut host, &to_pod("plain", &theirs().flags(SYN | ACK)));
    for _ in 0..300 {
        // The end of the last minute may be near.
        assert_step(&mut host, &hears());
        host.run(&says());
        assert_step(&mut host, &says());
        assert_step(&mut host, &hears());
        host.now += MINUTE;
        assert_step(&mut host, &hears());
        assert_step(&mut host, &audited);
        assert_step(&mut host, &says());
    }
    assert_eq!(host.connection_count(), (1, 0));
}

#[test]
fn an_error_about_an_audited_connection_arrives() {
    let mut host = Host::default();
    policy(
        &mut host,
        "plain",
        EndpointRules::EGRESS_STAGED | EndpointRules::INGRESS_ISOLATED,
    );
    let syn = theirs().reply().flags(SYN);
    assert_step(&mut host, &from_pod("plain", &syn).audits(Reason::Policy));
    let router = address("router", true);
    let error = Frame::error(router, address("plain", true), [3, 4], &syn);
    assert_step(&mut host, &to_pod("plain", &error));
}

#[test]
fn an_old_connection_of_a_pod_without_policy_ends_once_a_policy_forbids_it() {
    for (flags, forbidden, other) in [
        (EndpointRules::EGRESS_ISOLATED, says(), hears()),
        (EndpointRules::INGRESS_ISOLATED, hears(), says()),
    ] {
        for first in [&forbidden, &other] {
            let mut host = Host::default();
            for step in [first, &other, &forbidden, &other] {
                assert_step(&mut host, step);
            }
            assert_eq!(host.stat(Stat::ConnectionsPickedUp), 1);
            policy(&mut host, "plain", flags);
            for _ in 0..3 {
                assert_step(&mut host, &other);
                assert_step(&mut host, &forbidden.clone().drops(Reason::Policy));
            }
        }
    }
}

#[test]
fn what_is_picked_up_is_counted_and_nothing_else() {
    let mut host = Host::default();
    assert_step(&mut host, &says());
    assert_step(&mut host, &hears());
    let ask = Frame::udp(
        (address("plain", true), 40_000),
        (address("stranger", true), 53),
    );
    assert_step(&mut host, &from_pod("plain", &ask));
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    let stats = [Stat::ConnectionsPickedUp, Stat::ConnectionsAllowed].map(|stat| host.stat(stat));
    assert_eq!(stats, [1, 2]);
}

#[test]
fn in_the_window_ports_tell_who_opened_or_both_directions_allow_it() {
    let (own, peer) = (address("callee", true), address("stranger", true));
    // The callee allows no ingress, and all egress.
    let cases = [
        // A connection opened by the pod, judging by the ports.
        ((own, 40_000), (peer, 443), true),
        // A connection opened by a denied caller.
        ((own, 8080), (peer, 40_000), false),
        // The ports don't show which side opened it.
        ((own, 8080), (peer, 443), false),
        ((own, 40_000), (peer, 40_001), false),
    ];
    for udp in [true, false] {
        for (from, to, goes_on) in cases {
            let mut host = Host::default();
            host.endpoint_mut("callee").pickup_until = host.now + SECOND;
            let says = if udp {
                Frame::udp(from, to)
            } else {
                Frame::tcp(from, to, ACK)
            };
            assert_step(&mut host, &from_pod("callee", &says));
            let hears = to_pod("callee", &says.reply());
            let hears = if goes_on {
                hears
            } else {
                hears.drops(Reason::Policy)
            };
            assert_step(&mut host, &hears);
        }
    }
}
