use super::*;
use crate::abi::{Addr, capacity};

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

fn key(number: u32) -> FlowKey {
    FlowKey {
        local: Addr::v4([10, 0, 0, 1]),
        remote: Addr::v4((number >> 8).to_be_bytes()),
        endpoint: 1,
        local_port: 40_000,
        remote_port: number as u16 & 0xff,
        protocol: 6,
    }
}

/// Puts a flow where a CPU would that meets no other.
fn put(bucket: &mut Bucket, number: u32) -> usize {
    let tag = SEED.tag(&key(number));
    let way = bucket.place(tag);
    bucket.tags[way] = tag;
    bucket.flows[way].key = key(number);
    way
}

fn holds(bucket: &Bucket, number: u32) -> bool {
    let key = key(number);
    bucket.find(SEED.tag(&key), &key).is_some()
}

#[test]
fn every_word_of_a_key_counts_for_its_tag() {
    let tag = SEED.tag(&key(1));
    for change in [
        |key: &mut FlowKey| key.local = Addr::v4([10, 0, 0, 2]),
        |key: &mut FlowKey| key.remote = Addr::v4([10, 0, 0, 2]),
        |key: &mut FlowKey| key.endpoint = 2,
        |key: &mut FlowKey| key.local_port = 2,
        |key: &mut FlowKey| key.remote_port = 2,
        |key: &mut FlowKey| key.protocol = 17,
    ] {
        let mut other = key(1);
        change(&mut other);
        assert_ne!(SEED.tag(&other), tag);
        assert!(!other.same(&key(1)));
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
fn a_bucket_holds_eight_flows_and_then_the_oldest_goes() {
    let mut bucket = Bucket::default();
    let ways: Vec<usize> = (0..8).map(|number| put(&mut bucket, number)).collect();
    assert!((0..8).all(|number| holds(&bucket, number)));
    assert_eq!(
        put(&mut bucket, 3),
        ways[3],
        "one that is there stays where it is"
    );
    for number in 8..16 {
        put(&mut bucket, number);
    }
    assert!(!(0..8).any(|number| holds(&bucket, number)));
    assert!((8..16).all(|number| holds(&bucket, number)));
}

#[test]
fn a_flow_in_use_outlives_one_that_is_not_and_goes_if_all_are() {
    let mut bucket = Bucket::default();
    let ways: Vec<usize> = (0..8).map(|number| put(&mut bucket, number)).collect();
    for used in [0, 1, 2] {
        bucket.touch(ways[used]);
    }
    let before = |bucket: &Bucket| (0..8).filter(|n| holds(bucket, *n)).collect::<Vec<_>>();
    put(&mut bucket, 8);
    assert_eq!(before(&bucket).len(), 7);
    assert!([0, 1, 2].iter().all(|used| before(&bucket).contains(used)));
    // Their turn has come once: without another use they go.
    for number in 9..16 {
        put(&mut bucket, number);
    }
    assert_eq!(before(&bucket), []);
    for way in 0..Bucket::WAYS {
        bucket.touch(way);
    }
    put(&mut bucket, 16);
    assert!(holds(&bucket, 16));
}

#[test]
fn a_key_that_only_shares_a_tag_is_not_found() {
    let mut bucket = Bucket::default();
    let way = put(&mut bucket, 1);
    bucket.flows[way].key.remote_port ^= 1;
    assert!(!holds(&bucket, 1));
}

#[test]
fn a_way_that_is_being_written_is_nobodys() {
    let mut bucket = Bucket::default();
    let way = put(&mut bucket, 1);
    bucket.tags[way] = Bucket::BUSY;
    assert!(!holds(&bucket, 1));
    assert_ne!(put(&mut bucket, 2), way);
}

#[test]
fn room_is_made_by_flows_past_their_timeout_alone() {
    let clock = Clock {
        now: 10_000,
        second: 100,
    };
    let mut bucket = Bucket::default();
    let new = SEED.tag(&key(8));
    for number in 0..8 {
        assert!(bucket.room(new, clock).is_some());
        let way = put(&mut bucket, number);
        bucket.flows[way].flow.last_seen = 7000;
        bucket.flows[way].flow.timeout = 30;
    }
    assert_eq!(bucket.room(new, clock), None);
    bucket.flows[5].flow.timeout = 29;
    assert_eq!(bucket.room(new, clock), Some(5));
    let own = SEED.tag(&key(3));
    assert_eq!(bucket.room(own, clock), bucket.find(own, &key(3)));
}
