//! One bucket of flows in memory.

use ringfence_ebpf::abi::{Bucket, FlowKey};
use ringfence_ebpf::shared::{SharedBucket, SharedFlow};

pub(super) fn write(bucket: &SharedBucket, way: usize, tag: u64, key: &FlowKey, flow: &SharedFlow) {
    bucket.tags[way].set(tag);
    bucket.flows[way].flow.copy(flow);
    bucket.flows[way].key.set(key);
}

pub(super) fn release(bucket: &SharedBucket, tag: u64, key: &FlowKey) -> bool {
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
