//! Determines the workload of a pod, and its name if no label gives one.
//!
//! This uses only the pod's own object: an agent watches no workloads. A name is valid only within
//! the pod's namespace, and anyone who may create pods there may give them any name, so these rules
//! grant no name that couldn't be had anyway.

use std::borrow::Cow;

use crate::model::{self, Kind, OwnerReference, WorkloadKind};

/// The characters of a ReplicaSet's hash (`k8s.io/apimachinery/pkg/util/rand`).
const HASH_ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";
/// The pod label that Argo Rollouts uses instead of `pod-template-hash`.
const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";
/// The pod label of OpenShift with the name of the DeploymentConfig.
const DEPLOYMENT_CONFIG: &str = "deploymentconfig";
/// Minutes since 1970 that a CronJob may append to the names of its Jobs: from 2015, the year
/// before CronJobs existed, to 2049. No date written in digits falls into this range.
const SCHEDULED: std::ops::RangeInclusive<u32> = 24_000_000..=42_000_000;

/// Returns kind and name of the workload that owns a pod. The kind includes its group unless that
/// is one of Kubernetes' own.
pub(super) fn owner(pod: &model::Pod) -> Option<(Cow<'_, str>, &str)> {
    let meta = &pod.metadata;
    let controller = meta.owner_references.iter().find(|o| o.controller);
    let owner = controller.or(meta.owner_references.first())?;
    // The owner of a static pod: a node is no workload.
    if owner.kind == Kind::Node.name() {
        return None;
    }
    let made = match WorkloadKind::parse(&owner.kind) {
        Some(WorkloadKind::ReplicaSet) => of_replica_set(meta, owner),
        Some(WorkloadKind::ReplicationController) => of_replication_controller(meta, owner),
        Some(WorkloadKind::Job) => {
            scheduled(&owner.name).map(|name| (WorkloadKind::CronJob.name(), name))
        }
        _ => None,
    };
    Some(match made {
        Some((kind, name)) => (kind.into(), name),
        None => (owner.kind_and_group().into(), &owner.name),
    })
}

/// Returns the name of a pod without owner: its own name. For a static pod this excludes the node's
/// name, which the kubelet appends.
pub(super) fn own<'n>(name: &'n str, node: Option<&str>, is_static: bool) -> &'n str {
    let node = node.filter(|_| is_static);
    let short = node.and_then(|node| name.strip_suffix(node)?.strip_suffix('-'));
    short.filter(|short| !short.is_empty()).unwrap_or(name)
}

/// Parses the owner of a Deployment's pods: a ReplicaSet whose name ends in a hash. Argo Rollouts
/// use the same form.
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
    is_hash.then_some((WorkloadKind::Deployment.name(), name))
}

/// Parses the owner of an OpenShift DeploymentConfig's pods: a ReplicationController whose name
/// ends in the number of the rollout.
fn of_replication_controller<'p>(
    meta: &'p model::Meta,
    owner: &OwnerReference,
) -> Option<(&'static str, &'p str)> {
    let name = meta.labels.get(DEPLOYMENT_CONFIG)?;
    let number = owner.name.strip_prefix(name.as_str())?.strip_prefix('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some(("DeploymentConfig.apps.openshift.io", name.as_str()))
}

/// Returns the CronJob that created a Job, whose name ends in the minute for which it was scheduled
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

    /// Returns the workload of a pod `own` on node `n1` with these labels and owner.
    fn workload(labels: Value, owner: Option<[&str; 3]>) -> String {
        let mut object = pod("ns/own", "10.0.0.1", labels);
        if let Some([api, kind, name]) = owner {
            let owner = json!({"apiVersion": api, "kind": kind, "name": name, "controller": true});
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        let index = index([object]);
        index.pod("ns", "own").expect("the pod").traits.workload()
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
            let mut pods = index.pods().map(|pod| pod.traits.workload());
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
