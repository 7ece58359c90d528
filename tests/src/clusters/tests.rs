//! The clusters are what they say.

use super::count::{Counts, count};
use super::{Cluster, NODE, grid, mesh};

fn fair(cluster: Cluster) -> Counts {
    let counts = count(cluster.objects());
    assert!(counts.is_fair(), "{counts:#?}");
    counts
}

#[test]
fn the_mesh_has_monzos_numbers() {
    let counts = fair(Cluster::Mesh);
    assert_eq!(counts.pods, 12_000);
    assert_eq!(counts.label_sets, mesh::SERVICES);
    assert_eq!(counts.edges, mesh::EDGES);
}

#[test]
fn the_dense_cluster_has_a_policy_for_each_pod_and_five_pods_for_each_label_set() {
    let counts = fair(Cluster::Dense);
    assert_eq!((counts.pods, counts.policies), (30_000, 30_000));
    assert_eq!(counts.label_sets, 6000);
    assert!(counts.labels.0 >= 5 && counts.labels.1 <= 8, "{counts:?}");
}

/// Its peers are counted where it is measured: unoptimized that takes half a minute.
#[test]
fn the_huge_cluster_is_the_dense_one_enlarged() {
    assert_eq!(grid::HUGE.pods(), 102_000);
    let policies = Cluster::Huge.objects();
    let policies = policies.filter(|object| object["kind"] == "NetworkPolicy");
    assert_eq!(policies.count(), 75_000);
}

#[test]
fn every_object_of_the_mesh_parses_and_is_the_same_the_next_time() {
    let mut local = 0;
    let mut again = Cluster::Mesh.objects();
    for value in Cluster::Mesh.objects() {
        local += usize::from(value["spec"]["nodeName"] == NODE);
        assert_eq!(again.next().as_ref(), Some(&value));
    }
    assert!(again.next().is_none());
    assert_eq!(local, 100);
    assert!(Cluster::Mesh.parsed().all(|object| object.is_ok()));
}
