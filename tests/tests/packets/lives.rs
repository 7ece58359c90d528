//! How long connections live, whatever others send with their addresses and ports.

use ringfence_ebpf::abi::{Quota, Reason, Stat};
use ringfence_tests::packets::Frame;
use ringfence_tests::packets::fixture::address;
use ringfence_tests::packets::host::{Host, SECOND};
use ringfence_tests::packets::step::{from_pod, to_pod};
use ringfence_tests::random::Dice;

use super::{ACK, SYN, assert_step, outgoing};

const FIN: u8 = 1;
const RST: u8 = 4;
const HOUR: u64 = 3600 * SECOND;

/// The next sequence numbers of the pod and of the stranger.
const OURS: u32 = 5000;
const THEIRS: u32 = u32::MAX - 3;

fn ours(flags: u8) -> Frame {
    outgoing(flags).numbers(OURS, THEIRS)
}

fn theirs(flags: u8) -> Frame {
    outgoing(flags).reply().numbers(THEIRS, OURS)
}

/// Returns a host with the callee's connection to the stranger, on which all data is
/// acknowledged.
fn idle() -> Host {
    let mut host = Host::default();
    let syn = outgoing(SYN).numbers(OURS - 9, 0);
    assert_step(&mut host, &from_pod("callee", &syn));
    let answer = theirs(SYN | ACK).numbers(THEIRS - 1, OURS - 8);
    assert_step(&mut host, &to_pod("callee", &answer));
    let request = ours(ACK).numbers(OURS - 8, THEIRS).data(8);
    assert_step(&mut host, &from_pod("callee", &request));
    assert_step(&mut host, &to_pod("callee", &theirs(ACK)));
    assert_step(&mut host, &from_pod("callee", &ours(ACK)));
    host
}

/// Reports whether the stranger's next segment arrives.
fn lives(host: &mut Host) -> bool {
    let word = to_pod("callee", &theirs(ACK).data(4));
    host.run(&word) == word.expected
}

#[test]
fn no_stray_reset_fin_or_syn_shortens_an_idle_connections_life() {
    let mut numbers = vec![0, 1, OURS ^ 1 << 31, THEIRS ^ 1 << 31];
    for number in [OURS, THEIRS] {
        numbers.extend([1, 2, 8, 1460, 65_535, 1 << 20].map(|n| number.wrapping_add(n)));
        numbers.extend([1, 2, 9, 1460, 65_535, 1 << 20].map(|n| number.wrapping_sub(n)));
    }
    let flags = [
        RST,
        RST | ACK,
        FIN,
        FIN | ACK,
        SYN,
        SYN | ACK,
        SYN | RST,
        SYN | FIN,
    ];
    for flags in flags {
        for number in &numbers {
            let (mut by_us, mut by_them) = (idle(), idle());
            let stray = ours(flags).numbers(*number, THEIRS);
            by_us.run(&from_pod("callee", &stray));
            let stray = theirs(flags).numbers(*number, OURS);
            by_them.run(&to_pod("callee", &stray));
            for mut host in [by_us, by_them] {
                host.now += 23 * HOUR;
                assert!(lives(&mut host), "flags {flags} with number {number}");
            }
        }
    }
}

#[test]
fn strays_one_after_the_other_change_nothing_either() {
    let mut dice = Dice::new(14);
    for _ in 0..200 {
        let mut host = idle();
        for _ in 0..6 {
            let flags = *dice.choose(&[RST, RST | ACK, FIN | ACK, SYN, SYN | ACK]);
            let off = 1 + dice.below(u32::MAX as usize - 1) as u32;
            let [sequence, acknowledged] = [THEIRS.wrapping_add(off), OURS.wrapping_sub(off)];
            if dice.chance(50) {
                let stray = theirs(flags).numbers(sequence, OURS);
                host.run(&to_pod("callee", &stray));
            } else {
                let stray = ours(flags).numbers(acknowledged, THEIRS);
                host.run(&from_pod("callee", &stray));
            }
        }
        host.now += 23 * HOUR;
        assert!(lives(&mut host));
    }
}

#[test]
fn a_fin_that_acknowledges_what_was_never_sent_ends_nothing() {
    let mut host = idle();
    let fin = theirs(FIN | ACK).numbers(THEIRS, OURS ^ 1 << 31);
    assert_step(&mut host, &to_pod("callee", &fin));
    host.now += 23 * HOUR;
    assert!(lives(&mut host));
}

#[test]
fn a_half_closed_connection_lives_for_an_hour_of_silence() {
    for by_us in [true, false] {
        for (pause, expected) in [(3600, true), (3601, false)] {
            let mut host = idle();
            if by_us {
                assert_step(&mut host, &from_pod("callee", &ours(FIN | ACK)));
            } else {
                assert_step(&mut host, &to_pod("callee", &theirs(FIN | ACK)));
            }
            host.now += pause * SECOND;
            assert_eq!(lives(&mut host), expected, "{by_us} {pause}");
        }
    }
}

#[test]
fn what_ends_a_connection_for_both_ends_it_soon() {
    let last = |number: u32| number.wrapping_add(1);
    let by_fins = [
        from_pod("callee", &ours(FIN | ACK)),
        to_pod("callee", &theirs(ACK).numbers(THEIRS, last(OURS))),
        to_pod("callee", &theirs(FIN | ACK).numbers(THEIRS, last(OURS))),
        from_pod("callee", &ours(ACK).numbers(last(OURS), last(THEIRS))),
    ];
    let crossing = [
        from_pod("callee", &ours(FIN | ACK)),
        to_pod("callee", &theirs(FIN | ACK)),
    ];
    // Data that isn't acknowledged yet, with the FIN in its last segment.
    let under_way = [
        to_pod("callee", &theirs(ACK).data(1000)),
        to_pod(
            "callee",
            &theirs(FIN | ACK)
                .numbers(THEIRS.wrapping_add(1000), OURS)
                .data(24),
        ),
        from_pod("callee", &ours(RST | ACK).numbers(OURS, THEIRS)),
    ];
    let again = [
        to_pod("callee", &theirs(ACK).data(10)),
        from_pod("callee", &ours(ACK).numbers(OURS, THEIRS.wrapping_add(10))),
        // Together with data that has arrived.
        to_pod("callee", &theirs(FIN | ACK).data(10)),
        from_pod(
            "callee",
            &ours(FIN | ACK).numbers(OURS, THEIRS.wrapping_add(11)),
        ),
    ];
    let resets = [
        [from_pod("callee", &ours(RST))],
        [from_pod("callee", &ours(RST | ACK))],
        [to_pod("callee", &theirs(RST))],
    ];
    let mut ends = vec![
        by_fins.to_vec(),
        crossing.to_vec(),
        under_way.to_vec(),
        again.to_vec(),
    ];
    ends.extend(resets.map(|reset| reset.to_vec()));
    for (number, steps) in ends.into_iter().enumerate() {
        let mut host = idle();
        for step in steps {
            assert_step(&mut host, &step);
        }
        assert_eq!(host.connection_count(), (0, 1), "case {number}");
        host.now += 121 * SECOND;
        assert!(!lives(&mut host), "case {number}");
    }
}

#[test]
fn a_reset_that_ends_what_is_under_way_counts() {
    let mut host = idle();
    for n in 0..3 {
        let data = theirs(ACK)
            .numbers(THEIRS.wrapping_add(n * 1000), OURS)
            .data(1000);
        assert_step(&mut host, &to_pod("callee", &data));
    }
    let reset = theirs(RST).numbers(THEIRS.wrapping_add(3000), 0);
    assert_step(&mut host, &to_pod("callee", &reset));
    assert_eq!(host.connection_count(), (0, 1));
}

#[test]
fn a_refusal_counts_if_it_is_one_of_this_call() {
    for (acknowledged, believed) in [(OURS, false), (OURS - 8, true)] {
        let mut host = Host::default();
        let syn = outgoing(SYN).numbers(OURS - 9, 0);
        assert_step(&mut host, &from_pod("callee", &syn));
        let refusal = theirs(RST | ACK).numbers(0, acknowledged);
        assert_step(&mut host, &to_pod("callee", &refusal));
        let answer = theirs(SYN | ACK).numbers(THEIRS - 1, OURS - 8);
        assert_step(&mut host, &to_pod("callee", &answer));
        let request = ours(ACK).numbers(OURS - 8, THEIRS);
        assert_step(&mut host, &from_pod("callee", &request));
        let kept = if believed { (0, 1) } else { (1, 0) };
        assert_eq!(host.connection_count(), kept, "{acknowledged}");
    }
}

#[test]
fn an_answered_syn_on_the_ports_of_an_old_connection_is_a_new_one() {
    let mut host = idle();
    let syn = outgoing(SYN).numbers(77, 0);
    assert_step(&mut host, &from_pod("callee", &syn));
    assert_eq!(host.connection_count(), (1, 1));
    // The far end still has the old connection: it acknowledges it, and the connection continues.
    assert_step(&mut host, &to_pod("callee", &theirs(ACK)));
    let stray = theirs(SYN | ACK).numbers(900, 79);
    assert_step(&mut host, &to_pod("callee", &stray));
    assert_eq!(host.connection_count(), (1, 1));
    let answer = theirs(SYN | ACK).numbers(900, 78);
    assert_step(&mut host, &to_pod("callee", &answer));
    assert_eq!(host.connection_count(), (0, 1));
    assert_step(&mut host, &from_pod("callee", &ours(ACK).numbers(78, 901)));
    assert_eq!(host.connection_count(), (1, 0));
    let reset = theirs(RST).numbers(901, 0);
    assert_step(&mut host, &to_pod("callee", &reset));
    assert_eq!(host.connection_count(), (0, 1));
}

/// Returns a pod with as many connections as it may have, in tables with room for more.
fn full() -> Host {
    let mut host = Host::default();
    host.keep("callee", Quota::REPLIED);
    host.keep("caller", Quota::REPLIED);
    host.keep("plain", Quota::REPLIED);
    host
}

#[test]
fn a_connection_that_cant_be_kept_is_refused_and_counted_where_its_answers_need_that() {
    let mut host = full();
    assert_step(&mut host, &from_pod("callee", &outgoing(SYN)));
    let answer = outgoing(SYN).reply().flags(SYN | ACK);
    assert_step(&mut host, &to_pod("callee", &answer));
    let refused = from_pod("callee", &outgoing(ACK)).drops(Reason::ConnectionLimit);
    assert_step(&mut host, &refused);
    assert_step(&mut host, &refused);
    // As soon as there is room the connection continues.
    host.keep("callee", Quota::REPLIED - 1);
    assert_step(&mut host, &from_pod("callee", &outgoing(ACK)));
    assert_eq!(host.connection_count(), (1, 0));
}

#[test]
fn one_that_is_past_its_time_makes_room_for_another_of_its_pod() {
    let mut host = idle();
    host.now += 25 * HOUR;
    host.keep("callee", Quota::REPLIED);
    // One of this many connections shares a bucket with it.
    let kept = (1..2000).find(|port| {
        let syn = outgoing(SYN).with(|f| f.payload[..2].copy_from_slice(&u16::to_be_bytes(*port)));
        let answer = syn.reply().flags(SYN | ACK);
        host.run(&from_pod("callee", &syn));
        host.run(&to_pod("callee", &answer));
        let last = from_pod("callee", &syn.flags(ACK));
        host.run(&last) == last.expected
    });
    assert!(kept.is_some());
    assert_eq!(host.connection_count().0, 1);
}

#[test]
fn where_no_answer_needs_it_a_pod_has_as_many_connections_as_it_likes() {
    let mut host = full();
    let (plain, peer) = (address("plain", true), address("stranger", true));
    for port in 1..5000 {
        let syn = Frame::tcp((peer, port), (plain, 80), SYN);
        assert_step(&mut host, &to_pod("plain", &syn));
        assert_step(&mut host, &from_pod("plain", &syn.reply().flags(SYN | ACK)));
        assert_step(&mut host, &to_pod("plain", &syn.flags(ACK)));
    }
    assert!(host.stat(Stat::ConnectionsOverQuota) > 0);
    assert!(host.stat(Stat::ConnectionsEvicted) > 0, "it is counted");
    for port in 1..5000 {
        let data = Frame::tcp((peer, port), (plain, 80), ACK);
        assert_step(&mut host, &from_pod("plain", &data.reply()));
        assert_step(&mut host, &to_pod("plain", &data));
    }
}

/// One end of a connection as its own TCP sees it.
#[derive(Clone, Copy)]
struct End {
    /// Its next sequence number.
    next: u32,
    /// The sequence number that it expects.
    awaits: u32,
    /// The sequence number that it has acknowledged.
    said: u32,
}

/// Sends a segment from the pod (`true`) or the stranger.
fn sends(host: &mut Host, by_us: bool, frame: &Frame) {
    let step = if by_us {
        from_pod("callee", frame)
    } else {
        to_pod("callee", frame)
    };
    assert_step(host, &step);
}

#[test]
fn whatever_is_said_and_whatever_strays_only_what_an_end_would_take_ends_a_connection() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let mut host = idle();
        let own = |next, awaits| End {
            next,
            awaits,
            said: awaits,
        };
        // The stranger's end, and the pod's.
        let mut ends = [own(THEIRS, OURS), own(OURS, THEIRS)];
        let frame = |by_us: bool, flags| if by_us { ours(flags) } else { theirs(flags) };
        let mut last = [None, None];
        for _ in 0..40 {
            let by_us = dice.chance(50);
            let (from, to) = (usize::from(by_us), usize::from(!by_us));
            match dice.below(5) {
                0 | 1 => {
                    let len = 1 + dice.below(1400);
                    let End { next, awaits, .. } = ends[from];
                    let data = frame(by_us, ACK).numbers(next, awaits).data(len);
                    sends(&mut host, by_us, &data);
                    ends[from].next = next.wrapping_add(len as u32);
                    ends[from].said = awaits;
                    ends[to].awaits = ends[from].next;
                    last[from] = Some(data);
                }
                2 => {
                    let End { next, awaits, .. } = ends[from];
                    sends(&mut host, by_us, &frame(by_us, ACK).numbers(next, awaits));
                    ends[from].said = awaits;
                }
                3 => {
                    if let Some(data) = &last[from] {
                        // Late, and unchanged.
                        sends(&mut host, by_us, data);
                        ends[from].said = ends[from].said.min(ends[from].awaits);
                    }
                }
                _ => {
                    let flags = *dice.choose(&[RST, RST | ACK, FIN | ACK, SYN | ACK]);
                    // Before the number that the other end expects, or far beyond the
                    // data in flight.
                    let off = 1 + dice.below(1 << 30) as u32;
                    let number = if dice.chance(50) {
                        ends[to].said.wrapping_sub(off.max(1 << 20))
                    } else {
                        ends[from].next.wrapping_add(off.max(1 << 25))
                    };
                    let stray = frame(by_us, flags).numbers(number, ends[from].awaits);
                    sends(&mut host, by_us, &stray);
                }
            }
            assert_eq!(host.connection_count(), (1, 0), "seed {seed}");
        }
        let by_us = dice.chance(50);
        let End { next, awaits, .. } = ends[usize::from(by_us)];
        let reset = frame(by_us, RST | ACK).numbers(next, awaits);
        sends(&mut host, by_us, &reset);
        assert_eq!(host.connection_count(), (0, 1), "seed {seed}");
    }
}
