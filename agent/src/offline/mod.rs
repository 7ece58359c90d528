//! The commands that need no root and no datapath: the same compiler over a folder
//! of manifests, or over a cluster as it is now.

pub mod callers;
mod difference;
pub mod explain;
pub mod matrix;

use std::path::Path;

use ringfence_policy::index::Index;
use ringfence_policy::ports::PortSpec;

use crate::cli::{ClusterArgs, PolicyArgs};
use crate::failure::Failure;
use crate::kubernetes::list::{self, ListError};
use crate::manifests::Store;
use crate::settings::Origin;

/// Reads what a question is about.
fn load(cluster: &ClusterArgs, policy: &PolicyArgs) -> Result<Index, Failure> {
    match Origin::of(cluster.manifests.clone(), cluster.kubeconfig.clone()) {
        Origin::Manifests(folder) => read(&folder, policy),
        Origin::Kubernetes(access) => {
            let index = list::index(&access, &policy.config()).map_err(|error| match error {
                ListError::Access(_) => Failure::input(error),
                ListError::List { .. } | ListError::Runtime(_) => Failure::fault(error),
            })?;
            say(&index, &[]);
            Ok(index)
        }
    }
}

/// Reads a folder; any error in it is refused, since an answer from half of the
/// policies would be wrong.
fn read(manifests: &Path, policy: &PolicyArgs) -> Result<Index, Failure> {
    let store = Store::open(manifests).map_err(Failure::input)?;
    let index = store.index(&policy.config());
    say(&index, &store.unread());
    Ok(index)
}

/// Says what an answer leaves out.
fn say(index: &Index, unread: &[String]) {
    for line in unread.iter().cloned().chain(left_out(index)) {
        eprintln!("ringfence: {line}");
    }
}

/// What of ClusterNetworkPolicies isn't judged as it was meant.
fn left_out(index: &Index) -> impl Iterator<Item = String> {
    let problems = index.problems().into_iter();
    let of_cluster = problems.filter(|p| p.object.starts_with("ClusterNetworkPolicy "));
    of_cluster.map(|p| format!("{}: {}: {}", p.object, p.key_or_field, p.message))
}

fn port(text: &str) -> Result<PortSpec, Failure> {
    text.parse().map_err(Failure::input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::Store;

    #[test]
    fn what_a_newer_api_says_in_a_cluster_policy_is_said_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                    metadata: {name: newer}\nspec:\n  tier: Admin\n  priority: 1\n\
                    \u{20} subject: {namespaces: {}}\n  egress:\n\
                    \u{20} - {action: Deny, to: [{serviceAccounts: {}}]}\n\
                    \u{20} - {action: Accept, to: [{domainNames: [example.com]}]}\n";
        std::fs::write(folder.path().join("all.yaml"), yaml).unwrap();
        let store = Store::open(folder.path()).unwrap();
        let index = store.index(&PolicyArgs::default().config());
        let said: Vec<String> = left_out(&index).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        let newer = "ClusterNetworkPolicy newer: spec.egress[0].to[0].serviceAccounts: ";
        assert!(said[0].starts_with(newer), "{said:?}");
        assert!(said[0].ends_with("the rule denies everything"), "{said:?}");
    }
}
