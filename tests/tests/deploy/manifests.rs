//! The kustomize base, and the overlays and components built on it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use ringfence_tests::deployed::{
    deploy, documents, kustomize, kustomize_with, only, static_binary, strings, tool,
};
use serde_json::Value;

/// The oldest Kubernetes that knows all fields, and the newest with published schemas.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// The components that can be added to the base.
const COMPONENTS: [&str; 5] = ["api", "cni", "cri", "events", "operators"];

/// Returns everything that could be given to `kubectl apply -k`.
fn all() -> Vec<(&'static str, String)> {
    let folders = ["base", "overlays/enforce", "overlays/uninstall"];
    let rendered = folders.map(|folder| (folder, kustomize(folder).unwrap()));
    let mut all = Vec::from(rendered);
    for component in COMPONENTS {
        all.push((component, kustomize_with("base", &[component]).unwrap()));
    }
    let removal = kustomize_with("overlays/uninstall", &COMPONENTS).unwrap();
    all.push(("overlays/uninstall with all components", removal));
    all
}

pub(crate) fn agent_container(documents: &[Value]) -> Value {
    let pod = &only(documents, "DaemonSet").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    pod["containers"][0].clone()
}

fn rendered(folder: &str) -> Vec<Value> {
    documents(&kustomize(folder).unwrap()).unwrap()
}

#[test]
#[ignore = "needs kubectl and the schemas: cargo xtask test"]
fn what_kustomize_makes_is_valid_by_the_schemas_of_kubernetes() {
    for (folder, yaml) in all() {
        let whole = yaml.matches("\nkind: ").count();
        for version in VERSIONS {
            let mut validate = tool("kubernetes-validate").unwrap();
            let validate = validate.args(["--strict", "-k", version, "-"]);
            let mut validate = validate
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            validate
                .stdin
                .take()
                .unwrap()
                .write_all(yaml.as_bytes())
                .unwrap();
            let said = validate.wait_with_output().unwrap();
            let passed = String::from_utf8_lossy(&said.stdout)
                .matches("passed")
                .count();
            assert!(said.status.success(), "{folder}, {version}: {said:?}");
            assert_eq!(passed, whole, "{folder}, {version}: {said:?}");
        }
    }
}

#[test]
#[ignore = "needs kubectl: cargo xtask test"]
fn only_the_overlay_enforces_and_nothing_else_differs() {
    let (base, enforce) = (
        kustomize("base").unwrap(),
        kustomize("overlays/enforce").unwrap(),
    );
    assert_eq!(base.matches("--mode=audit").count(), 1);
    assert_eq!(base.replace("--mode=audit", "--mode=enforce"), enforce);
}

#[test]
#[ignore = "needs kubectl and the static binary: cargo xtask test"]
fn uninstalling_waits_for_no_pod_to_become_ready() {
    let removal = rendered("overlays/uninstall");
    let spec = &only(&removal, "DaemonSet").unwrap()["spec"];
    assert_eq!(
        spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"],
        "100%"
    );
    let container = agent_container(&removal);
    let args = strings(&container["args"]);
    assert_eq!(args[0], "uninstall");
    let mut uninstall = std::process::Command::new(static_binary().unwrap());
    let said = uninstall.args(&args).arg("--help").output().unwrap();
    assert!(said.status.success(), "{said:?}");
    // The arguments name the same folders as the component that installs the plugin.
    let plugin = documents(&kustomize_with("base", &["cni"]).unwrap()).unwrap();
    let given = strings(&agent_container(&plugin)["args"]);
    for arg in args[1..].iter().filter(|arg| *arg != "--stay") {
        assert!(given.contains(arg), "{arg} isn't in {given:?}");
    }
    for (documents, paths) in [(&removal, 2), (&plugin, 3)] {
        let pod = &only(documents, "DaemonSet").unwrap()["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let added = volumes.filter(|volume| volume["name"].as_str().unwrap().starts_with("cni-"));
        let added: Vec<_> = added.collect();
        assert_eq!(added.len(), paths);
        for volume in added {
            let mount = mounts
                .iter()
                .find(|mount| mount["name"] == volume["name"])
                .unwrap();
            assert_eq!(mount["mountPath"], volume["hostPath"]["path"]);
            assert!(mount.get("readOnly").is_none());
        }
    }
    assert!(container.get("livenessProbe").is_none());
    assert!(container.get("readinessProbe").is_none());
}

/// Returns the kustomization for uninstalling from a cluster, with components left in it.
fn removal_with(components: &[&str]) -> Vec<Value> {
    documents(&kustomize_with("overlays/uninstall", components).unwrap()).unwrap()
}

#[test]
#[ignore = "needs kubectl: cargo xtask test"]
fn uninstalling_goes_with_every_component_and_no_volume_is_there_twice() {
    let mut together: Vec<Vec<&str>> = COMPONENTS.map(|one| vec![one]).into();
    together.push(COMPONENTS.to_vec());
    for components in together {
        for documents in [
            removal_with(&components),
            documents(&kustomize_with("base", &components).unwrap()).unwrap(),
        ] {
            let pod = &only(&documents, "DaemonSet").unwrap()["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            for (list, key) in [
                (&pod["volumes"], "name"),
                (&container["volumeMounts"], "mountPath"),
                (&container["ports"], "name"),
            ] {
                let all = list.as_array().unwrap();
                let keys: BTreeSet<&str> = all.iter().filter_map(|one| one[key].as_str()).collect();
                assert_eq!(keys.len(), all.len(), "{components:?}: {list:#}");
            }
        }
    }
}

#[test]
#[ignore = "needs kubectl and the static binary: cargo xtask test"]
fn uninstalling_takes_the_flags_of_every_component() {
    let container = agent_container(&removal_with(&COMPONENTS));
    let args = strings(&container["args"]);
    assert!(args.contains(&"--emit-events".to_owned()), "{args:?}");
    let mut uninstall = std::process::Command::new(static_binary().unwrap());
    let said = uninstall.args(&args).arg("--help").output().unwrap();
    assert!(said.status.success(), "{said:?}");
}

#[test]
#[ignore = "needs kubectl: cargo xtask test"]
fn the_result_of_uninstalling_stays_to_be_read() {
    let container = agent_container(&rendered("overlays/uninstall"));
    let args = strings(&container["args"]);
    // A DaemonSet restarts pods that end, and kubectl shows the last run.
    assert!(args.contains(&"--stay".to_owned()), "{args:?}");
    assert_eq!(
        container["terminationMessagePolicy"],
        "FallbackToLogsOnError"
    );
}

/// The label by which `kubectl apply --prune` selects Ringfence's objects.
const LABEL: &str = "app.kubernetes.io/name";

#[test]
#[ignore = "needs kubectl: cargo xtask test"]
fn what_a_component_brings_is_pruned_by_the_documented_command_once_it_is_gone() {
    let key = |object: &Value| {
        let part = |pointer| object.pointer(pointer).map(ToString::to_string);
        ["/kind", "/metadata/namespace", "/metadata/name"].map(part)
    };
    let text = fs::read_to_string(deploy("../docs/install.md")).unwrap();
    let prune = text.split("kubectl apply -k . --prune").nth(1).unwrap();
    let prune = prune.split("```").next().unwrap();
    assert!(prune.contains(&format!("-l {LABEL}=ringfence")), "{prune}");
    let base = rendered("base");
    let known: Vec<_> = base.iter().map(key).collect();
    for component in COMPONENTS {
        let all = documents(&kustomize_with("base", &[component]).unwrap()).unwrap();
        for object in &all {
            // Without the label the command would ignore the object.
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels[LABEL], "ringfence", "{component}: {object:#}");
        }
        for object in all.iter().filter(|object| !known.contains(&key(object))) {
            let (group, kind) = (&object["apiVersion"], &object["kind"]);
            let kind = format!("{}/{}", group.as_str().unwrap(), kind.as_str().unwrap());
            let listed = prune
                .lines()
                .any(|line| line.trim_end_matches(" \\").ends_with(&kind));
            assert!(listed, "{component}: {kind} isn't in {prune}");
        }
    }
}

#[test]
#[ignore = "needs kubectl and the static binary: cargo xtask test"]
fn the_agent_knows_every_flag_that_the_daemonset_gives() {
    // Help is printed once all arguments before it have been recognized.
    let all = kustomize_with("base", &COMPONENTS).unwrap();
    let container = agent_container(&documents(&all).unwrap());
    for flag in [
        "--emit-events",
        "--cri-socket=",
        "--cni-state=",
        "--cni-conf-dir=",
        "--api-addr=",
    ] {
        let args = strings(&container["args"]);
        assert!(
            args.iter().any(|arg| arg.starts_with(flag)),
            "{flag}: {args:?}"
        );
    }
    let mut agent = std::process::Command::new(static_binary().unwrap());
    let agent = agent
        .args(strings(&container["args"]))
        .arg("--help")
        .output()
        .unwrap();
    assert!(agent.status.success(), "{agent:?}");
}

#[test]
#[ignore = "needs kubectl: cargo xtask test"]
fn the_image_is_of_this_version() {
    let container = agent_container(&rendered("base"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(container["image"], format!("ringfence:{version}"));
}

#[test]
fn probes_ask_pages_that_the_agent_has_where_it_serves_them() {
    let text = fs::read_to_string(deploy("base/daemonset.yaml")).unwrap();
    let container = agent_container(&documents(&text).unwrap());
    let args = strings(&container["args"]);
    let ports = container["ports"].as_array().unwrap();
    let served = ["--metrics-addr=0.0.0.0", "--health-addr=127.0.0.1"];
    assert_eq!(ports.len(), served.len());
    for (port, flag) in ports.iter().zip(served) {
        let flag = format!("{flag}:{}", port["containerPort"]);
        assert!(args.contains(&flag), "{flag} isn't in {args:?}");
    }
    let probes = ["livenessProbe", "readinessProbe"];
    let pages = probes.map(|probe| {
        container[probe]["httpGet"]["path"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    assert_eq!(pages, ["/livez", "/readyz"]);
    for probe in probes {
        // Not at an address where pods can prevent an answer.
        let asked = &container[probe]["httpGet"];
        assert_eq!(asked["port"], ports[1]["name"]);
        assert_eq!(asked["host"], "127.0.0.1");
    }
}

#[test]
#[ignore = "needs kubectl: cargo xtask test"]
fn programs_are_served_by_the_files_of_a_secret_that_is_mounted_whole() {
    let all = documents(&kustomize_with("base", &["api"]).unwrap()).unwrap();
    let pod = &only(&all, "DaemonSet").unwrap()["spec"]["template"]["spec"];
    let container = agent_container(&all);
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "api");
    assert_eq!(volume.unwrap()["secret"]["secretName"], "ringfence-api");
    assert_eq!(volume.unwrap()["secret"]["defaultMode"], 0o400);
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "api").unwrap();
    assert!(mount["readOnly"] == true && mount.get("subPath").is_none());
    let folder = mount["mountPath"].as_str().unwrap();
    let args = strings(&container["args"]);
    for (flag, file) in [
        ("--api-cert", "tls.crt"),
        ("--api-key", "tls.key"),
        ("--api-client-ca", "ca.crt"),
    ] {
        assert!(
            args.contains(&format!("{flag}={folder}/{file}")),
            "{args:?}"
        );
    }
    let ports = container["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == "api").unwrap();
    let addr = format!("--api-addr=0.0.0.0:{}", port["containerPort"]);
    assert!(args.contains(&addr), "{args:?}");
    // Without the component the API isn't served.
    let base = agent_container(&rendered("base"));
    assert!(
        !strings(&base["args"])
            .iter()
            .any(|arg| arg.starts_with("--api-"))
    );
}

#[test]
fn the_agent_gets_three_capabilities_and_no_more() {
    let text = fs::read_to_string(deploy("base/daemonset.yaml")).unwrap();
    let security = &agent_container(&documents(&text).unwrap())["securityContext"];
    assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
    let added: BTreeSet<String> = strings(&security["capabilities"]["add"])
        .into_iter()
        .collect();
    let expected = ["BPF", "NET_ADMIN", "PERFMON"].map(str::to_owned);
    assert_eq!(added, expected.into());
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert!(security.get("privileged").is_none());
}
