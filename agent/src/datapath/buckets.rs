//! The tables of flows: seeded once, and read.

use std::fs::File;
use std::io::Read as _;

use ringfence_ebpf::abi::{Bucket, Flow, FlowKey, Seed};
use ringfence_policy::compile::IdKey;

use super::error::DatapathError;
use super::maps::{Buckets, Maps, Raw, map_error};

/// Gives a new table its random numbers. One that has some keeps them: what lies in
/// it is found by them.
pub(super) fn sow(maps: &mut Maps) -> Result<(), DatapathError> {
    let Raw(seed) = maps
        .seed
        .get(&0, 0)
        .map_err(|error| map_error("reading", "SEED", &error))?;
    if seed != Seed::default() {
        return Ok(());
    }
    let seed = random().map_err(|error| DatapathError::Map {
        operation: "finding random numbers for",
        map: "SEED",
        message: format!("/dev/urandom: {error}"),
    })?;
    maps.seed
        .set(0, Raw(seed), 0)
        .map_err(|error| map_error("writing", "SEED", &error))
}

/// The key of ids and of long names, from the tables' random numbers: as long as
/// those stay, they are hashed alike.
pub(super) fn id_key(maps: &Maps) -> Result<IdKey, DatapathError> {
    let Raw(seed) = maps
        .seed
        .get(&0, 0)
        .map_err(|error| map_error("reading", "SEED", &error))?;
    let bytes: Vec<u8> = seed.0.into_iter().flat_map(u32::to_ne_bytes).collect();
    Ok(IdKey::from_secret(&bytes))
}

fn random() -> std::io::Result<Seed> {
    let mut urandom = File::open("/dev/urandom")?;
    let mut seed = Seed::default();
    for number in &mut seed.0 {
        let mut bytes = [0; 4];
        urandom.read_exact(&mut bytes)?;
        *number = u32::from_ne_bytes(bytes);
    }
    Ok(seed)
}

/// All flows, live and dead, replied ones first. One that a CPU writes meanwhile is
/// left out, or is the one that was there before, or partly.
pub(super) fn entries(maps: &Maps) -> Result<Vec<(FlowKey, Flow)>, DatapathError> {
    let mut all = replied(maps)?;
    each("OPENING", &maps.opening, |bucket| all.extend(held(bucket)))?;
    Ok(all)
}

/// Those that are replied.
pub(super) fn replied(maps: &Maps) -> Result<Vec<(FlowKey, Flow)>, DatapathError> {
    let mut all = super::maps::entries("FLOWS_MORE", &maps.flows_more)?;
    each("FLOWS", &maps.flows, |bucket| all.extend(held(bucket)))?;
    Ok(all)
}

/// How many flows a table of buckets holds.
pub(super) fn count(name: &'static str, map: &Buckets) -> Result<u64, DatapathError> {
    let mut count = 0;
    each(name, map, |bucket| count += held(bucket).count() as u64)?;
    Ok(count)
}

fn each(
    name: &'static str,
    map: &Buckets,
    mut see: impl FnMut(&Bucket),
) -> Result<(), DatapathError> {
    for number in 0..map.len() {
        let Raw(bucket) = map
            .get(&number, 0)
            .map_err(|error| map_error("reading", name, &error))?;
        see(&bucket);
    }
    Ok(())
}

fn held(bucket: &Bucket) -> impl Iterator<Item = (FlowKey, Flow)> {
    let ways = bucket.tags.iter().zip(&bucket.flows);
    ways.filter(|(tag, _)| **tag > Bucket::BUSY)
        .map(|(_, opening)| (opening.key, opening.flow))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ways_and_those_that_are_being_written_hold_nothing() {
        let mut bucket = Bucket::default();
        bucket.tags[1] = Bucket::BUSY;
        bucket.tags[2] = 17;
        bucket.flows[2].key.endpoint = 7;
        let endpoints: Vec<u32> = held(&bucket).map(|(key, _)| key.endpoint).collect();
        assert_eq!(endpoints, [7]);
    }

    #[test]
    fn two_tables_have_different_seeds() {
        assert_ne!(random().expect("urandom"), random().expect("urandom"));
    }
}
