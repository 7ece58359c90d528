//! One bucket of connections in memory.

use ringfence_ebpf::abi::{Bucket, ConnectionKey};
use ringfence_ebpf::shared::{SharedBucket, SharedConnection};

pub(super) fn write(
    bucket: &SharedBucket,
    way: usize,
    tag: u64,
    key: &ConnectionKey,
    connection: &SharedConnection,
) {
    bucket.tags[way].set(tag);
    bucket.connections[way].connection.copy(connection);
    bucket.connections[way].key.set(key);
}

pub(super) fn release(bucket: &SharedBucket, tag: u64, key: &ConnectionKey) -> bool {
    let way = bucket.find(tag, key);
    if let Some(way) = way {
        bucket.tags[way].set(Bucket::FREE);
    }
    way.is_some()
}

pub(super) fn held(buckets: &[SharedBucket]) -> usize {
    let tags = buckets.iter().flat_map(|bucket| &bucket.tags);
    tags.filter(|tag| tag.get() != Bucket::FREE).count()
}
