use std::collections::BTreeMap;
use std::fs;

use ringfence_policy::callers;
use ringfence_policy::config::Config;
use ringfence_policy::index::Index;
use ringfence_policy::matrix::{By, Matrix, Query};

use super::Store;

/// A pod template whose pods may call the ledger, as a field of a workload's spec.
const TEMPLATE: &str = "{metadata: {labels: {egress.ringfence.dev/ledger: \"8080\"}}, \
                        spec: {containers: [{name: main}]}}";

const LEDGER: &str = "apiVersion: apps/v1\nkind: Deployment\n\
                      metadata: {name: ledger, namespace: bank}\nspec: {template: {metadata: \
                      {labels: {app: ledger, ringfence.dev/ingress: enforce}}, \
                      spec: {containers: [{name: main}]}}}\n---\n";

/// Returns a workload of this kind and group in the bank; `@` in `spec` stands for the template.
fn workload(api: &str, kind: &str, name: &str, spec: &str) -> String {
    let spec = spec.replace('@', TEMPLATE);
    format!(
        "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, namespace: bank}}\n\
         spec: {spec}\n---\n"
    )
}

fn owned(yaml: &str, kind: &str, name: &str) -> String {
    let owners =
        format!("ownerReferences: [{{apiVersion: x/v1, kind: {kind}, name: {name}}}], namespace");
    yaml.replacen("namespace", &owners.replace("x/v1", "batch/v1"), 1)
}

fn read(yaml: &str) -> (Index, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), yaml).unwrap();
    let store = Store::open(folder.path()).unwrap();
    (store.index(&Config::default()), store.unread())
}

fn callers(index: &Index) -> Vec<String> {
    let found = callers::callers(index, "bank/ledger").unwrap().callers;
    found.into_iter().map(|caller| caller.caller).collect()
}

fn rows(index: &Index) -> Vec<String> {
    let query = Query {
        ports: vec!["TCP/8080".parse().unwrap()],
        from: Vec::new(),
        to: Vec::new(),
        peers: Vec::new(),
        by: By::Pod,
    };
    let matrix = Matrix::compute(index, &query).unwrap();
    matrix.rows().map(str::to_owned).collect()
}

#[test]
fn whatever_has_a_pod_template_is_a_caller() {
    let cases = [
        ("batch/v1", "Job", "{template: @}"),
        (
            "batch/v1",
            "CronJob",
            "{jobTemplate: {spec: {template: @}}}",
        ),
        (
            "batch/v1beta1",
            "CronJob",
            "{jobTemplate: {spec: {template: @}}}",
        ),
        ("v1", "ReplicationController", "{template: @}"),
        ("extensions/v1beta1", "Deployment", "{template: @}"),
        (
            "argoproj.io/v1alpha1",
            "Rollout",
            "{strategy: {}, template: @}",
        ),
        ("apps.openshift.io/v1", "DeploymentConfig", "{template: @}"),
        ("apps.kruise.io/v1beta1", "StatefulSet", "{template: @}"),
        (
            "apps.kruise.io/v1alpha1",
            "AdvancedCronJob",
            "{template: {jobTemplate: {spec: {template: @}}}}",
        ),
        ("serving.knative.dev/v1", "Service", "{template: @}"),
        (
            "keda.sh/v1alpha1",
            "ScaledJob",
            "{jobTargetRef: {template: @}}",
        ),
        (
            "example.com/v1",
            "Anything",
            "{deeply: [{in: {podTemplate: @}}]}",
        ),
    ];
    for (api, kind, spec) in cases {
        let yaml = LEDGER.to_owned() + &workload(api, kind, "caller", spec);
        let (index, unread) = read(&yaml);
        assert_eq!(callers(&index), ["bank/caller"], "{kind} of {api}");
        assert_eq!(
            rows(&index),
            ["bank/caller", "bank/ledger"],
            "{kind} of {api}"
        );
        assert_eq!(unread, [""; 0], "{kind} of {api}");
    }
}

#[test]
fn each_template_of_a_workload_stands_for_its_own_pods() {
    let specs = "{headGroupSpec: {template: @}, workerGroupSpecs: [{groupName: small, template: @}, {template: @}]}";
    let ray = workload("ray.io/v1", "RayCluster", "ray", specs);
    let set = "{leaderWorkerTemplate: {leaderTemplate: @, workerTemplate: @}}";
    let set = workload("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "set", set);
    let (index, _) = read(&(LEDGER.to_owned() + &ray + &set));
    let expected = [
        "bank/ray-headgroupspec",
        "bank/ray-small",
        "bank/ray-workergroupspecs",
        "bank/set-leader",
        "bank/set-worker",
    ];
    assert_eq!(callers(&index), expected);
}

#[test]
fn kinds_of_one_name_in_two_groups_stand_beside_each_other() {
    let own = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: bank}\n\
               spec: {ports: [{port: 80}]}\n---\n";
    let knative = workload("serving.knative.dev/v1", "Service", "web", "{template: @}");
    let one = workload("apps/v1", "StatefulSet", "web", "{template: @}");
    let other = workload(
        "apps.kruise.io/v1beta1",
        "StatefulSet",
        "web",
        "{template: @}",
    );
    let (index, _) = read(&(LEDGER.to_owned() + own + &knative + &one + &other));
    let expected = [
        "bank/ledger",
        "bank/web (Service.serving.knative.dev)",
        "bank/web (StatefulSet)",
        "bank/web (StatefulSet.apps.kruise.io)",
    ];
    assert_eq!(rows(&index), expected);
    assert_eq!(callers(&index), ["bank/web"]);
}

#[test]
fn a_job_of_a_cron_job_is_the_cron_jobs_and_one_by_itself_a_caller() {
    let cron = workload(
        "batch/v1",
        "CronJob",
        "report",
        "{jobTemplate: {spec: {template: @}}}",
    );
    let run = workload("batch/v1", "Job", "report-29372340", "{template: @}");
    let run = owned(&run, "CronJob", "report");
    let (index, unread) = read(&(LEDGER.to_owned() + &cron + &run));
    assert_eq!(rows(&index), ["bank/ledger", "bank/report"]);
    assert_eq!(unread, [""; 0]);
    let (index, unread) = read(&(LEDGER.to_owned() + &run));
    assert_eq!(rows(&index), ["bank/ledger"]);
    let expected = "Job bank/report-29372340: its pods belong to its CronJob, which isn't there; \
                    they are missing here";
    assert_eq!(unread, [expected]);
}

#[test]
fn real_pods_of_a_cron_job_stand_for_themselves_and_go_by_its_name() {
    let cron = workload(
        "batch/v1",
        "CronJob",
        "report",
        "{jobTemplate: {spec: {template: @}}}",
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: report-29372340-abcde\n  namespace: bank\n\
               \u{20} labels: {egress.ringfence.dev/ledger: \"8080\"}\n\
               \u{20} ownerReferences: [{apiVersion: batch/v1, kind: Job, name: report-29372340, controller: true}]\n\
               spec: {nodeName: n, containers: []}\nstatus: {phase: Running, podIP: 10.0.0.1}\n---\n";
    let (index, _) = read(&(LEDGER.to_owned() + &cron + pod));
    assert_eq!(rows(&index), ["bank/ledger", "bank/report-29372340-abcde"]);
    assert_eq!(callers(&index), ["bank/report"]);
    let ended = pod.replace("Running", "Succeeded");
    let (index, _) = read(&(LEDGER.to_owned() + &cron + &ended));
    assert_eq!(rows(&index), ["bank/ledger", "bank/report"]);
}

#[test]
fn a_job_that_is_created_under_a_generated_name_goes_by_what_that_begins_with() {
    let job = workload("batch/v1", "Job", "x", "{template: @}");
    let job = job.replace("name: x", "generateName: migrate-");
    let (index, _) = read(&(LEDGER.to_owned() + &job));
    assert_eq!(callers(&index), ["bank/migrate"]);
}

#[test]
fn a_kind_that_can_not_be_read_is_said_with_an_object_and_how_many_there_are() {
    let kafka = |name: &str| workload("kafka.strimzi.io/v1", "Kafka", name, "{replicas: 3}");
    let pattern = "{rules: [{pattern: {spec: {containers: [{name: main}]}}}]}";
    let kyverno = workload("kyverno.io/v1", "Policy", "p", pattern);
    let own = [
        ("v1", "ConfigMap"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
    ];
    let own = own
        .map(|(api, kind)| workload(api, kind, "x", "{}"))
        .concat();
    let (_, unread) = read(&(LEDGER.to_owned() + &kafka("b") + &kafka("a") + &kyverno + &own));
    let why = "no pod template was found in it; if it creates pods, they are missing here";
    let expected = [
        format!("Kafka.kafka.strimzi.io bank/a and 1 more: {why}"),
        format!("Policy.kyverno.io bank/p: {why}"),
    ];
    assert_eq!(unread, expected);
    let many: BTreeMap<u8, String> = (10..40)
        .map(|n| {
            (
                n,
                workload("example.com/v1", &format!("Kind{n}"), "x", "{}"),
            )
        })
        .collect();
    let many: String = many.into_values().collect();
    let (_, unread) = read(&many);
    assert_eq!(unread.len(), 21);
    assert_eq!(unread[20], "10 more kinds like these");
}

#[test]
fn a_workload_that_goes_from_its_file_is_no_caller_any_longer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    let rollout = workload("argoproj.io/v1alpha1", "Rollout", "caller", "{template: @}");
    fs::write(&file, LEDGER.to_owned() + &rollout).unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut index = Index::new(Config::default());
    let mut feed = super::Feed::default();
    feed.tell(&store, &mut index);
    assert_eq!(callers(&index), ["bank/caller"]);
    std::thread::sleep(std::time::Duration::from_millis(60));
    fs::write(&file, LEDGER).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    store.refresh();
    feed.tell(&store, &mut index);
    assert_eq!(callers(&index), [""; 0]);
}
