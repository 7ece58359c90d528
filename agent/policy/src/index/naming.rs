//! Which workload a pod is of, and what it is called without a label that says so.
//!
//! By what the pod's own object shows: an agent follows no workloads. A name is one
//! within the pod's namespace in any case, where whoever may create pods may call them
//! anything, so that nobody gets a name by these rules that he couldn't have anyway.

use std::borrow::Cow;

use crate::model::{self, OwnerReference};

/// The characters of a ReplicaSet's hash (`k8s.io/apimachinery/pkg/util/rand`).
const HASH_ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";
/// What Argo Rollouts labels pods with in the place of `pod-template-hash`.
const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";
/// What OpenShift labels pods with: the name of their DeploymentConfig.
const DEPLOYMENT_CONFIG: &str = "deploymentconfig";
/// Minutes since 1970 that a CronJob may put behind the names of its Jobs: from 2015, the
/// year before there were any, to 2049. No date written in digits is one of them.
const SCHEDULED: std::ops::RangeInclusive<u32> = 24_000_000..=42_000_000;

/// Kind, with its group where that isn't Kubernetes' own, and name of the workload that
/// owns a pod.
pub(super) fn owner(pod: &model::Pod) -> Option<(Cow<'_, str>, &str)> {
    let meta = &pod.metadata;
    let controller = meta.owner_references.iter().find(|o| o.controller);
    let owner = controller.or(meta.owner_references.first())?;
    let made = match owner.kind.as_str() {
        // A static pod's: a node is no workload.
        "Node" => return None,
        "ReplicaSet" => of_replica_set(meta, owner),
        "ReplicationController" => of_replication_controller(meta, owner),
        "Job" => scheduled(&owner.name).map(|name| ("CronJob", name)),
        _ => None,
    };
    Some(match made {
        Some((kind, name)) => (kind.into(), name),
        None => (owner.kind_and_group().into(), &owner.name),
    })
}

/// What a pod without owner is called: by its own name, a static one without the node's,
/// which its kubelet puts behind it.
pub(super) fn own<'n>(name: &'n str, node: Option<&str>, is_static: bool) -> &'n str {
    let node = node.filter(|_| is_static);
    let short = node.and_then(|node| name.strip_suffix(node)?.strip_suffix('-'));
    short.filter(|short| !short.is_empty()).unwrap_or(name)
}

/// A Deployment's pods are owned by a ReplicaSet whose name ends in a hash; so are an
/// Argo Rollout's.
fn of_replica_set<'p>(
    meta: &model::Meta,
    owner: &'p OwnerReference,
) -> Option<(&'static str, &'p str)> {
    let (name, hash) = owner.name.rsplit_once('-')?;
    if meta
        .labels
        .get(ROLLOUT_HASH)
        .is_some_and(|label| label == hash)
    {
        return Some(("Rollout.argoproj.io", name));
    }
    let is_hash = match meta.labels.get("pod-template-hash") {
        Some(label) => label == hash,
        None => (6..=10).contains(&hash.len()) && hash.chars().all(|c| HASH_ALPHABET.contains(c)),
    };
    is_hash.then_some(("Deployment", name))
}

/// An OpenShift DeploymentConfig's pods are owned by a ReplicationController whose name
/// ends in the number of the roll-out.
fn of_replication_controller<'p>(
    meta: &'p model::Meta,
    owner: &OwnerReference,
) -> Option<(&'static str, &'p str)> {
    let name = meta.labels.get(DEPLOYMENT_CONFIG)?;
    let number = owner.name.strip_prefix(name.as_str())?.strip_prefix('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some(("DeploymentConfig.apps.openshift.io", name.as_str()))
}

/// The CronJob that made a Job, whose name ends in the minute for which it was scheduled
/// (`kubernetes/pkg/controller/cronjob`, `getJobName`).
fn scheduled(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let digits = minute.len() == 8 && minute.bytes().all(|b| b.is_ascii_digit());
    let minute: u32 = minute.parse().ok().filter(|_| digits)?;
    (SCHEDULED.contains(&minute) && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{index, pod};

    /// The workload of a pod `own` on node `n1` with these labels and owner.
    fn workload(labels: Value, owner: Option<[&str; 3]>) -> String {
        let mut object = pod("ns/own", "10.0.0.1", labels);
        if let Some([api, kind, name]) = owner {
            let owner = json!({"apiVersion": api, "kind": kind, "name": name, "controller": true});
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        let index = index([object]);
        index.pod("ns", "own").expect("the pod").shape.workload()
    }

    #[test]
    fn all_runs_of_a_cron_job_go_by_its_name() {
        let job = |name: &str| workload(json!({}), Some(["batch/v1", "Job", name]));
        assert_eq!(job("report-29372340"), "ns/report");
        assert_eq!(job("a-b-29372341"), "ns/a-b");
        for alone in [
            "report",
            "report-20260101",
            "report-1700000000",
            "report-2937234x",
            "report-+2937234",
            "report-99999999",
            "report-x7k2p",
            "-29372340",
        ] {
            assert_eq!(job(alone), format!("ns/{alone}"));
        }
        let labelled = json!({"app": "daily"});
        let owner = Some(["batch/v1", "Job", "report-29372340"]);
        assert_eq!(workload(labelled, owner), "ns/daily");
    }

    #[test]
    fn pods_of_rollouts_of_others_go_by_their_name() {
        let hash = |label: &str| json!({label: "5d4f8c7b9"});
        let set = Some(["apps/v1", "ReplicaSet", "web-5d4f8c7b9"]);
        assert_eq!(workload(hash("pod-template-hash"), set), "ns/web");
        assert_eq!(workload(hash("rollouts-pod-template-hash"), set), "ns/web");
        let controller = |name| Some(["v1", "ReplicationController", name]);
        let config = || json!({"deploymentconfig": "web"});
        assert_eq!(workload(config(), controller("web-12")), "ns/web");
        assert_eq!(workload(config(), controller("web-1x")), "ns/web-1x");
        assert_eq!(workload(config(), controller("other-1")), "ns/other-1");
        assert_eq!(workload(json!({}), controller("web-12")), "ns/web-12");
        let kafka = Some(["kafka.strimzi.io/v1", "Kafka", "events"]);
        assert_eq!(workload(json!({}), kafka), "ns/events");
    }

    #[test]
    fn a_static_pod_goes_by_its_own_name_and_never_by_its_nodes() {
        let mut mirror = pod("kube-system/etcd-n1", "10.0.0.1", json!({}));
        let node = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true});
        mirror["metadata"]["ownerReferences"] = json!([node]);
        let named = |object: Value| {
            let index = index([object]);
            let mut pods = index.pods().map(|pod| pod.shape.workload());
            pods.next().expect("the pod")
        };
        assert_eq!(
            named(mirror.clone()),
            "kube-system/etcd-n1",
            "it isn't static"
        );
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "u"});
        assert_eq!(named(mirror.clone()), "kube-system/etcd");
        mirror["metadata"]["name"] = json!("n1");
        assert_eq!(named(mirror.clone()), "kube-system/n1");
        mirror["metadata"]["name"] = json!("etcd-n2");
        assert_eq!(named(mirror), "kube-system/etcd-n2");
    }
}
