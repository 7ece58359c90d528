//! The pick-up window of a first attach: which connections of a pod continue, and which don't.

use ringfence_ebpf::abi::Reason;
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::fixture::address;
use ringfence_tests::packets::host::{Host, SECOND};
use ringfence_tests::packets::step::{from_pod, to_pod};

use super::{ACK, SYN, assert_step, outgoing};

#[test]
fn in_its_window_a_pod_goes_on_with_connections_that_it_had() {
    let mut host = Host::default();
    host.endpoint_mut("callee").pickup_until = host.now + SECOND;
    let theirs = outgoing(ACK).reply();
    for flags in [ACK | 1, ACK | 4, ACK | SYN, 0] {
        assert_step(
            &mut host,
            &to_pod("callee", &theirs.flags(flags)).drops(Reason::Policy),
        );
    }
    assert_step(&mut host, &to_pod("callee", &theirs));
    host.now += 2 * SECOND;
    assert_step(&mut host, &to_pod("callee", &theirs));
    let late = theirs.with(|f| f.payload[0] ^= 1);
    assert_step(&mut host, &to_pod("callee", &late).drops(Reason::Policy));
}

#[test]
fn what_is_picked_up_stays_with_bare_acks_until_its_opener_speaks() {
    const FIN: u8 = 1;
    const RST: u8 = 4;
    let mut host = Host::default();
    host.endpoint_mut("callee").pickup_until = host.now + SECOND;
    let (ours, theirs) = (outgoing(ACK), outgoing(ACK).reply());
    let denied = |flags| to_pod("callee", &theirs.flags(flags)).drops(Reason::Policy);
    assert_step(&mut host, &to_pod("callee", &theirs));
    // Each of these would reveal to the sender whether a port is open.
    let others = [FIN | ACK, RST, RST | ACK, SYN | ACK, SYN];
    for flags in others {
        assert_step(&mut host, &denied(flags));
    }
    // The pod's own reset shows that there is no such connection.
    assert_step(&mut host, &from_pod("callee", &ours.flags(RST)));
    for flags in others {
        assert_step(&mut host, &denied(flags));
    }
    assert_step(&mut host, &to_pod("callee", &theirs));
    assert_step(&mut host, &from_pod("callee", &ours));
    assert_step(&mut host, &to_pod("callee", &theirs.flags(FIN | ACK)));
}

#[test]
fn in_its_window_a_pod_gets_answers_to_what_it_asked_before() {
    let (pod, peer) = (address("callee", true), address("stranger", true));
    let answer = |from, to| Frame::udp((peer, from), (pod, to));
    let mut host = Host::default();
    host.endpoint_mut("callee").pickup_until = host.now + SECOND;
    // Two queries from one socket, and one whose answer comes later.
    for _ in 0..2 {
        assert_step(&mut host, &to_pod("callee", &answer(53, 40_000)));
    }
    // To one of the pod's own servers, or from an ephemeral port.
    for (from, to) in [(53, 8080), (53, 53), (40_000, 40_001)] {
        let frame = answer(from, to);
        assert_step(&mut host, &to_pod("callee", &frame).drops(Reason::Policy));
    }
    // A server whose egress is closed answers clients that its ingress allows.
    host.endpoint_mut("caller").pickup_until = host.now + SECOND;
    let own = address("caller", true);
    let answers = Frame::udp((own, 53), (peer, 40_000));
    assert_step(&mut host, &from_pod("caller", &answers));
    let asks = Frame::udp((own, 40_000), (peer, 53));
    assert_step(&mut host, &from_pod("caller", &asks).drops(Reason::Policy));
    host.now += 2 * SECOND;
    for port in [40_000, 40_002] {
        let frame = answer(53, port);
        assert_step(&mut host, &to_pod("callee", &frame).drops(Reason::Policy));
    }
    // The pod's own packet vouches for it.
    let again = answer(53, 40_000).reply();
    assert_step(&mut host, &from_pod("callee", &again));
    assert_step(&mut host, &to_pod("callee", &answer(53, 40_000)));
}
