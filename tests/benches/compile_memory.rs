//! Live bytes of the heap that the index and the compiler keep; started by
//! `cargo xtask bench compile`.
//!
//! Objects are parsed one at a time and moved into the index, so that at the
//! end nothing but the index and the compiler is left.

mod common;

use std::alloc::System;

use anyhow::Result;
use ringfence_policy::config::Config;
use ringfence_policy::index::Index;
use ringfence_tests::clusters::Cluster;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use ringfence_policy::compile::Compiler;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<()> {
    common::run(|cluster| {
        let name = cluster.name();
        let kept = live(|| {
            let mut index = Index::new(Config::default());
            for object in common::parsed(cluster) {
                index.apply(object?);
            }
            let mut compiler = Compiler::new(common::scope());
            compiler.update(&mut index);
            common::expect_local_pods(&compiler)?;
            Ok((index, compiler))
        })?;
        let stored = live(|| {
            let objects = common::parsed(cluster).collect::<Result<Vec<_>>>()?;
            Ok(common::stored(objects))
        })?;
        let floor = format!("{name}-floor");
        Ok(vec![
            json!({
                "case": name, "variant": "memory", "unit": "bytes", "samples": [kept],
                "against": floor, "target": target(cluster),
            }),
            json!({"case": floor, "variant": "memory", "unit": "bytes", "samples": [stored]}),
        ])
    })
}

fn target(cluster: Cluster) -> Option<f64> {
    match cluster {
        Cluster::Mesh | Cluster::Wide => None,
        Cluster::Dense => Some(60e6),
        Cluster::Huge => Some(200e6),
    }
}

/// The bytes that what `make` makes holds.
fn live<T>(make: impl FnOnce() -> Result<T>) -> Result<f64> {
    let bytes = || {
        let stats = HEAP.stats();
        stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
    };
    let before = bytes();
    let made = make()?;
    let after = bytes();
    drop(made);
    Ok(after - before)
}
