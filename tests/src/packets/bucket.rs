//! One bucket of flows in memory.

use ringfence_ebpf::abi::{Bucket, Flow, FlowKey};

pub(super) fn write(bucket: &mut Bucket, way: usize, tag: u64, key: &FlowKey, flow: &Flow) {
    bucket.tags[way] = tag;
    bucket.flows[way].flow = *flow;
    bucket.flows[way].key = *key;
}

pub(super) fn release(bucket: &mut Bucket, tag: u64, key: &FlowKey) -> bool {
    let way = bucket.find(tag, key);
    if let Some(way) = way {
        bucket.tags[way] = Bucket::FREE;
    }
    way.is_some()
}

pub(super) fn held(buckets: &[Bucket]) -> usize {
    let tags = buckets.iter().flat_map(|bucket| bucket.tags);
    tags.filter(|tag| *tag != Bucket::FREE).count()
}
