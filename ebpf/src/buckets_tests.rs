use super::*;
use crate::abi::{Addr, capacity};
use crate::conntrack::{State, opened};
use crate::shared::SharedKey;

const SEED: Seed = Seed([
    0x9e37_79b9,
    0x7f4a_7c15,
    0xf39c_c060,
    0x5ced_c834,
    0x1082_276b,
    0xf3a2_7251,
    0xf86c_6a11,
    0xd0c1_8e95,
    0x2767_f0b1,
    0x53d2_7b7f,
    0x0347_045b,
    0x5bf1_827f,
]);

fn key(number: u32) -> ConnectionKey {
    ConnectionKey {
        local: Addr::v4([10, 0, 0, 1]),
        remote: Addr::v4((number >> 8).to_be_bytes()),
        endpoint: 1,
        local_port: 40_000,
        remote_port: number as u16 & 0xff,
        protocol: 6,
    }
}

const CLOCK: Clock = Clock {
    now: 10_000,
    second: 100,
};

/// A connection that a peer outside of the cluster has just opened.
fn connection(key: &ConnectionKey, now: u64) -> SharedConnection {
    let connection = SharedConnection::default();
    connection.set(&opened(
        Direction::Ingress,
        key.protocol as u8,
        1,
        0,
        60,
        now,
    ));
    connection
}

/// Stores a connection as a CPU does that meets no other one.
fn put_key(bucket: &SharedBucket, key: &ConnectionKey, now: u64) -> usize {
    let connection = connection(key, now);
    let clock = Clock { now, ..CLOCK };
    let (tag, owner) = (SEED.tag(key), SEED.owner(key, &connection));
    let way = bucket.place(tag, owner, now);
    bucket.tags[way].set(tag);
    bucket.own(way, owner, &connection, clock);
    bucket.connections[way].key.set(key);
    bucket.connections[way].connection.copy(&connection);
    way
}

fn put(bucket: &SharedBucket, number: u32) -> usize {
    put_key(bucket, &key(number), CLOCK.now)
}

fn holds_key(bucket: &SharedBucket, key: &ConnectionKey) -> bool {
    bucket.find(SEED.tag(key), key).is_some()
}

/// Returns the key of one of many connections between a pair of ends.
fn of(endpoint: u32, peer: u8, protocol: u32, port: u16) -> ConnectionKey {
    ConnectionKey {
        endpoint,
        remote: Addr::v4([10, 0, 0, peer]),
        protocol,
        remote_port: port,
        ..key(0)
    }
}

fn holds(bucket: &SharedBucket, number: u32) -> bool {
    let key = key(number);
    bucket.find(SEED.tag(&key), &key).is_some()
}

#[test]
fn every_word_of_a_key_counts_for_its_tag() {
    let tag = SEED.tag(&key(1));
    for change in [
        |key: &mut ConnectionKey| key.local = Addr::v4([10, 0, 0, 2]),
        |key: &mut ConnectionKey| key.remote = Addr::v4([10, 0, 0, 2]),
        |key: &mut ConnectionKey| key.endpoint = 2,
        |key: &mut ConnectionKey| key.local_port = 2,
        |key: &mut ConnectionKey| key.remote_port = 2,
        |key: &mut ConnectionKey| key.protocol = 17,
    ] {
        let mut other = key(1);
        change(&mut other);
        assert_ne!(SEED.tag(&other), tag);
        let held = SharedKey::default();
        held.set(&other);
        assert!(held.is(&other) && !held.is(&key(1)));
    }
    assert_ne!(Seed([7; 12]).tag(&key(1)), tag, "and so does the seed");
}

#[test]
fn keys_spread_evenly_over_the_buckets() {
    let mut load = vec![0_u32; capacity::OPENING as usize];
    for number in 0..capacity::OPENING * 4 {
        load[Seed::bucket::<{ capacity::OPENING }>(SEED.tag(&key(number))) as usize] += 1;
    }
    // Poisson with mean 4: 2.1% above eight.
    let over = load.iter().filter(|load| **load > 8).count();
    assert!(over < load.len() * 4 / 100, "{over} buckets");
    assert!(
        load.iter().all(|load| *load < 24),
        "{:?}",
        load.iter().max()
    );
}

#[test]
fn an_endpoints_unanswered_connections_lie_in_its_part_of_the_table() {
    let part = capacity::OPENING / capacity::OPENING_PARTS;
    let buckets = |endpoint| -> std::collections::BTreeSet<u32> {
        (0..50_000_u32)
            .map(|number| ConnectionKey {
                endpoint,
                ..key(number)
            })
            .map(|key| SEED.opening_bucket::<{ capacity::OPENING }>(SEED.tag(&key), endpoint))
            .collect()
    };
    let first = buckets(1);
    assert_eq!(first.len() as u32, part, "all of its part");
    assert!((2..10).any(|endpoint| buckets(endpoint).is_disjoint(&first)));
}

#[test]
fn a_bucket_holds_eight_connections_and_then_the_oldest_of_equals_goes() {
    let bucket = SharedBucket::default();
    let place = |bucket: &SharedBucket, number| {
        put_key(bucket, &of(1, 7, 6, number), 10_000 + u64::from(number))
    };
    let ways: Vec<usize> = (0..8).map(|number| place(&bucket, number)).collect();
    assert_eq!(
        place(&bucket, 3),
        ways[3],
        "one that is there stays where it is"
    );
    place(&bucket, 8);
    place(&bucket, 9);
    let held: Vec<u16> = (0..10)
        .filter(|number| holds_key(&bucket, &of(1, 7, 6, *number)))
        .collect();
    assert_eq!(held, [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_connection_in_use_outlives_one_that_is_not() {
    let bucket = SharedBucket::default();
    let ways: Vec<usize> = (0..8)
        .map(|number| put_key(&bucket, &of(1, 7, 6, number), 10_000))
        .collect();
    for used in [0, 1, 2, 3, 4, 6, 7] {
        bucket.connections[ways[used]]
            .connection
            .last_seen
            .set(10_100);
        bucket.touch(ways[used], CLOCK);
    }
    assert_eq!(put_key(&bucket, &of(1, 7, 6, 8), 10_200), ways[5]);
}

#[test]
fn who_opens_many_pushes_out_its_own_and_nobody_elses() {
    let bucket = SharedBucket::default();
    // A client, one over another protocol, and one of another endpoint.
    let others = [of(1, 1, 6, 1), of(1, 2, 17, 1), of(2, 7, 6, 1)];
    for key in others {
        put_key(&bucket, &key, 10_000);
    }
    for number in 0..1000 {
        put_key(&bucket, &of(1, 7, 6, number), 10_001 + u64::from(number));
    }
    assert!(others.iter().all(|key| holds_key(&bucket, key)));
    let newest: Vec<u16> = (0..1000)
        .filter(|number| holds_key(&bucket, &of(1, 7, 6, *number)))
        .collect();
    assert_eq!(newest, [995, 996, 997, 998, 999]);
}

#[test]
fn a_newcomer_takes_its_way_from_whoever_holds_most() {
    let bucket = SharedBucket::default();
    for number in 0..8 {
        put_key(&bucket, &of(1, 7, 6, number), 10_000 + u64::from(number));
    }
    let newcomers = [
        of(1, 1, 6, 1),
        of(1, 2, 6, 1),
        of(1, 1, 17, 1),
        of(2, 1, 6, 1),
    ];
    for (number, key) in (0..).zip(newcomers) {
        put_key(&bucket, &key, 10_010);
        assert!(holds_key(&bucket, &key));
        assert!(!holds_key(&bucket, &of(1, 7, 6, number)), "the oldest");
    }
    assert!(newcomers.iter().all(|key| holds_key(&bucket, key)));
}

#[test]
fn many_peers_of_one_endpoint_take_nothing_from_another_and_many_protocols_neither() {
    let bucket = SharedBucket::default();
    let (client, other) = (of(1, 1, 6, 1), of(2, 1, 6, 1));
    put_key(&bucket, &other, 10_000);
    put_key(&bucket, &client, 10_000);
    for number in 0..1000_u16 {
        let key = ConnectionKey {
            remote: Addr::v4([192, 0, (number >> 8) as u8, number as u8]),
            ..of(1, 0, [17, 132, 1, 47][usize::from(number) % 4], number)
        };
        put_key(&bucket, &key, 10_001);
    }
    assert!(holds_key(&bucket, &other));
    assert!(holds_key(&bucket, &client), "of a kind of its own");
}

#[test]
fn a_connection_whose_time_is_over_goes_before_all_others() {
    let bucket = SharedBucket::default();
    let old = of(2, 1, 6, 1);
    put_key(&bucket, &old, 3999);
    for number in 0..7 {
        put_key(&bucket, &of(1, 7, 6, number), 9_999);
    }
    put_key(&bucket, &of(1, 7, 6, 8), 9_999);
    assert!(holds_key(&bucket, &old), "its last tick");
    put_key(&bucket, &of(1, 7, 6, 9), 10_001);
    assert!(!holds_key(&bucket, &old));
}

#[test]
fn a_pair_is_told_by_endpoint_peer_protocol_and_opener_and_never_by_ports() {
    let owner = |key: &ConnectionKey, change: fn(&SharedConnection)| {
        let connection = connection(key, 0);
        change(&connection);
        SEED.owner(key, &connection)
    };
    let base = of(1, 7, 6, 1);
    let one = owner(&base, |_| ());
    let ports = ConnectionKey {
        local_port: 9,
        ..of(1, 7, 6, 2)
    };
    assert_eq!(
        owner(&ports, |connection| connection
            .state
            .set(State::Closing as u8)),
        one
    );
    assert_ne!(owner(&of(1, 8, 6, 1), |_| ()), one);
    assert_ne!(owner(&of(2, 7, 6, 1), |_| ()), one);
    assert_ne!(owner(&of(1, 7, 17, 1), |_| ()), one);
    let by_pod = |connection: &SharedConnection| connection.opened_by.set(Direction::Egress as u8);
    assert_ne!(owner(&base, by_pod), one);
    assert_ne!(Seed([7; 12]).owner(&base, &connection(&base, 0)), one);
}

#[test]
fn a_strangers_addresses_count_by_64_bits_and_a_pods_one_by_one() {
    let v6 = |last: u8| {
        let mut octets = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        octets[15] = last;
        ConnectionKey {
            remote: Addr::v6(octets),
            ..key(0)
        }
    };
    let owner = |key: &ConnectionKey, peer| {
        let connection = connection(key, 0);
        connection.peer.set(peer);
        SEED.owner(key, &connection)
    };
    let stranger = |last| owner(&v6(last), Identity::OUTSIDE);
    assert_eq!(stranger(1), stranger(2));
    let pod = |last| owner(&v6(last), Identity::FIRST);
    assert_ne!(pod(1), pod(2));
    let mut other = v6(1);
    other.remote = Addr::v6([0x20; 16]);
    assert_ne!(owner(&other, Identity::OUTSIDE), stranger(1));
}

#[test]
fn a_key_that_only_shares_a_tag_is_not_found() {
    let bucket = SharedBucket::default();
    let way = put(&bucket, 1);
    let port = &bucket.connections[way].key.remote_port;
    port.set(port.get() ^ 1);
    assert!(!holds(&bucket, 1));
}

#[test]
fn a_way_that_is_being_written_is_nobodys() {
    let bucket = SharedBucket::default();
    let way = put(&bucket, 1);
    bucket.tags[way].set(Bucket::BUSY);
    assert!(!holds(&bucket, 1));
    assert_ne!(put(&bucket, 2), way);
}

#[test]
fn room_is_made_by_connections_past_their_timeout_alone() {
    let clock = CLOCK;
    let bucket = SharedBucket::default();
    let new = SEED.tag(&key(8));
    for number in 0..8 {
        assert!(bucket.room(new, clock).is_some());
        let way = put(&bucket, number);
        bucket.connections[way].connection.last_seen.set(7000);
        bucket.connections[way].connection.timeout.set(30);
    }
    assert_eq!(bucket.room(new, clock), None);
    bucket.connections[5].connection.timeout.set(29);
    assert_eq!(bucket.room(new, clock), Some(5));
    let own = SEED.tag(&key(3));
    assert_eq!(bucket.room(own, clock), bucket.find(own, &key(3)));
}
