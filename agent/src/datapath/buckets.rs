//! The tables of connections: seeding them once, and reading them.

use ringfence_ebpf::abi::{Bucket, Connection, ConnectionKey, Seed};
use ringfence_policy::compile::IdKey;

use super::catalog::MapName;
use super::error::DatapathError;
use super::maps::{Buckets, Maps, Raw, map_error};

/// Gives new tables their random numbers. Existing numbers are kept, since the stored connections
/// are located by them.
pub(super) fn seed(maps: &mut Maps) -> Result<(), DatapathError> {
    let Raw(seed) = maps
        .seed
        .get(&0, 0)
        .map_err(|error| map_error("reading", MapName::Seed, &error))?;
    if seed != Seed::default() {
        return Ok(());
    }
    let seed = random().map_err(|error| DatapathError::Map {
        operation: "finding random numbers for",
        map: MapName::Seed,
        message: format!("getrandom: {error}"),
    })?;
    maps.seed
        .set(0, Raw(seed), 0)
        .map_err(|error| map_error("writing", MapName::Seed, &error))
}

/// Returns the key of ids and of long names, derived from the tables' random numbers: hashes stay
/// the same for as long as those do.
pub(super) fn id_key(maps: &Maps) -> Result<IdKey, DatapathError> {
    let Raw(seed) = maps
        .seed
        .get(&0, 0)
        .map_err(|error| map_error("reading", MapName::Seed, &error))?;
    let bytes: Vec<u8> = seed.0.into_iter().flat_map(u32::to_ne_bytes).collect();
    Ok(IdKey::from_secret(&bytes))
}

fn random() -> Result<Seed, getrandom::Error> {
    let mut seed = Seed::default();
    for number in &mut seed.0 {
        *number = getrandom::u32()?;
    }
    Ok(seed)
}

/// Returns all connections, live and dead, replied ones first. A connection that a CPU writes
/// meanwhile may be missing, outdated or torn.
pub(super) fn entries(maps: &Maps) -> Result<Vec<(ConnectionKey, Connection)>, DatapathError> {
    let mut all = replied(maps)?;
    each(MapName::Opening, &maps.opening, |bucket| {
        all.extend(held(bucket));
    })?;
    Ok(all)
}

/// Returns the replied connections.
pub(super) fn replied(maps: &Maps) -> Result<Vec<(ConnectionKey, Connection)>, DatapathError> {
    let mut all = super::maps::entries(MapName::ConnOverflow, &maps.conn_overflow)?;
    each(MapName::Connections, &maps.connections, |bucket| {
        all.extend(held(bucket));
    })?;
    Ok(all)
}

/// Returns the number of connections in a table of buckets.
pub(super) fn count(name: MapName, map: &Buckets) -> Result<u64, DatapathError> {
    let mut count = 0;
    each(name, map, |bucket| count += held(bucket).count() as u64)?;
    Ok(count)
}

fn each(name: MapName, map: &Buckets, mut see: impl FnMut(&Bucket)) -> Result<(), DatapathError> {
    for number in 0..map.len() {
        let Raw(bucket) = map
            .get(&number, 0)
            .map_err(|error| map_error("reading", name, &error))?;
        see(&bucket);
    }
    Ok(())
}

fn held(bucket: &Bucket) -> impl Iterator<Item = (ConnectionKey, Connection)> {
    let ways = bucket.tags.iter().zip(&bucket.connections);
    ways.filter(|(tag, _)| **tag > Bucket::BUSY)
        .map(|(_, opening)| (opening.key, opening.connection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ways_and_those_that_are_being_written_hold_nothing() {
        let mut bucket = Bucket::default();
        bucket.tags[1] = Bucket::BUSY;
        bucket.tags[2] = 17;
        bucket.connections[2].key.endpoint = 7;
        let endpoints: Vec<u32> = held(&bucket).map(|(key, _)| key.endpoint).collect();
        assert_eq!(endpoints, [7]);
    }

    #[test]
    fn two_tables_have_different_seeds() {
        assert_ne!(random().unwrap(), random().unwrap());
    }
}
