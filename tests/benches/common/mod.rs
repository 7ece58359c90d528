//! What the two benches of the compiler share.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use ringfence_policy::compile::Compiler;
use ringfence_policy::index::Scope;
use ringfence_policy::model::{Object, ObjectKey};
use ringfence_tests::clusters::{Cluster, NODE};
use serde_json::Value;

/// What the compiler compiles for.
pub(crate) fn scope() -> Scope {
    Scope::Node(NODE.to_owned())
}

/// Parses a cluster's objects one at a time.
pub(crate) fn parsed(cluster: Cluster) -> impl Iterator<Item = Result<Object>> {
    let name = cluster.name();
    cluster
        .parsed()
        .map(move |object| object.with_context(|| format!("{name}: an object doesn't parse")))
}

/// What no index can do without: the objects, each under its key.
pub(crate) fn stored(objects: Vec<Object>) -> HashMap<ObjectKey, Object> {
    objects.into_iter().map(|o| (o.key(), o)).collect()
}

/// Tables of something else would be quick to make.
pub(crate) fn expect_local_pods(compiler: &Compiler) -> Result<()> {
    let tables = compiler.tables();
    let isolated = tables.endpoints.values().filter(|pod| pod.ingress != 0);
    if tables.endpoints.len() != 100 || isolated.count() < 90 {
        bail!("{} pods are compiled", tables.endpoints.len());
    }
    Ok(())
}

/// Measures the clusters named on the command line, or all, and prints what
/// was measured as `cargo xtask bench` reads it.
pub(crate) fn run(measure: impl Fn(Cluster) -> Result<Vec<Value>>) -> Result<()> {
    // Cargo itself adds `--bench`.
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let known = Cluster::ALL.map(Cluster::name);
    if let Some(unknown) = named.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no cluster {unknown}; there are: {}", known.join(", "));
    }
    let mut rows = Vec::new();
    for cluster in Cluster::ALL {
        if named.is_empty() || named.iter().any(|name| name == cluster.name()) {
            rows.extend(measure(cluster)?);
        }
    }
    println!("{}", Value::Array(rows));
    Ok(())
}
