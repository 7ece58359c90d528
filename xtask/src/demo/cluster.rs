//! The parts of the manifests that the demo needs: node, pods, addresses and NodePorts.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A pod of the demo.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    /// Unique in the demo, although Kubernetes requires that only within a namespace.
    pub(super) name: String,
    /// The service it belongs to: its `app` label, else the CronJob that creates it.
    pub(super) service: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Pod {
    /// Returns its name in `status --wait`, `explain` and the matrix.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Returns its name in counters.
    pub(super) fn workload(&self) -> String {
        format!("{}/{}", self.namespace, self.service)
    }

    /// Returns its address of one family.
    pub(super) fn address(&self, v4: bool) -> Result<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses
            .find(|address| address.is_ipv4() == v4)
            .with_context(|| format!("{} isn't dual-stack", self.full_name()))
    }
}

/// A Service's port on the node.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct NodePort {
    /// Port on the node.
    pub(super) port: u16,
    /// Port on the pod.
    pub(super) target: u16,
    /// Name of the pod behind it.
    pub(super) pod: String,
    /// `externalTrafficPolicy: Local`: the pod sees the client's own address.
    pub(super) local: bool,
}

/// The demo's cluster.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Cluster {
    pub(super) node_name: String,
    pub(super) node: Vec<IpAddr>,
    pub(super) pods: Vec<Pod>,
    pub(super) node_ports: Vec<NodePort>,
}

impl Cluster {
    /// Reads a folder of manifests.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut objects = Vec::new();
        for path in files(dir)? {
            objects.extend(documents(&path)?);
        }
        Self::new(&objects)
    }

    fn new(objects: &[Value]) -> Result<Self> {
        let mut cluster = Self::default();
        for object in objects {
            match text(object, "/kind") {
                "Node" => {
                    cluster.node_name = text(object, "/metadata/name").to_owned();
                    cluster.node = addresses(object, "/status/addresses", "address");
                }
                "Pod" => cluster.pods.push(Pod {
                    namespace: text(object, "/metadata/namespace").to_owned(),
                    name: text(object, "/metadata/name").to_owned(),
                    service: service(object).to_owned(),
                    addresses: addresses(object, "/status/podIPs", "ip"),
                }),
                _ => {}
            }
        }
        for object in objects
            .iter()
            .filter(|object| text(object, "/kind") == "Service")
        {
            cluster.node_ports.extend(node_port(object, &cluster.pods)?);
        }
        Ok(cluster)
    }

    /// Looks up a pod by name.
    pub(super) fn pod(&self, name: &str) -> Result<&Pod> {
        let mut pods = self.pods.iter();
        pods.find(|pod| pod.name == name)
            .with_context(|| format!("the manifests hold no pod {name}"))
    }

    /// Looks up the NodePort that leads to a pod.
    pub(super) fn node_port(&self, pod: &str) -> Option<&NodePort> {
        self.node_ports.iter().find(|port| port.pod == pod)
    }
}

/// Lists the YAML files of a folder, sorted.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("can't list {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort_unstable();
    Ok(files)
}

/// Reads the documents of a YAML file.
pub(super) fn documents(path: &Path) -> Result<Vec<Value>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

/// Parses the documents of YAML text.
pub(super) fn parse(text: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(text)?)
}

/// Returns the text at a JSON pointer, or an empty string.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn addresses(object: &Value, list: &str, key: &str) -> Vec<IpAddr> {
    let list = object
        .pointer(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    // A Node's list contains host names too.
    list.filter_map(|entry| entry[key].as_str()?.parse().ok())
        .collect()
}

/// Returns the service that a pod belongs to. A CronJob's Jobs are named after the CronJob
/// and the minute that they were scheduled for.
fn service(pod: &Value) -> &str {
    let job = text(pod, "/metadata/ownerReferences/0/name");
    match text(pod, "/metadata/labels/app") {
        "" => job.rsplit_once('-').map_or(job, |(name, _)| name),
        app => app,
    }
}

/// Returns a Service's NodePort, if it has one. The demo's Services have one port and one
/// pod each.
fn node_port(service: &Value, pods: &[Pod]) -> Result<Option<NodePort>> {
    let Some(port) = service.pointer("/spec/ports/0/nodePort") else {
        return Ok(None);
    };
    let name = text(service, "/metadata/name");
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let target = service.pointer("/spec/ports/0/targetPort").and_then(number);
    let behind = |pod: &&Pod| {
        pod.namespace == text(service, "/metadata/namespace")
            && pod.service == text(service, "/spec/selector/app")
    };
    let (Some(port), Some(target), Some(pod)) = (number(port), target, pods.iter().find(behind))
    else {
        bail!("Service {name}: no pod behind it, or a port that isn't a number");
    };
    Ok(Some(NodePort {
        port,
        target,
        pod: pod.name.clone(),
        local: text(service, "/spec/externalTrafficPolicy") == "Local",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn the_demos_manifests_hold_a_node_dual_stack_pods_and_node_ports() {
        let cluster = Cluster::read(&paths::root().join("deploy/demo")).expect("readable");
        assert_eq!(cluster.node_name, "demo-node");
        assert_eq!(cluster.node.len(), 2);
        assert_eq!(cluster.pods.len(), 9);
        let report = cluster
            .pods
            .iter()
            .find(|pod| pod.name.starts_with("nightly"));
        assert_eq!(
            report.map(Pod::workload),
            Some("bank/nightly-report".to_owned())
        );
        for pod in &cluster.pods {
            assert!(pod.address(true).is_ok() && pod.address(false).is_ok());
        }
        let port = cluster
            .node_port("edge-proxy-1")
            .expect("the edge has a NodePort");
        assert_eq!((port.port, port.target, port.local), (30080, 8080, true));
        assert!(
            !cluster
                .node_port("service-ledger-1")
                .expect("left open")
                .local
        );
        assert!(cluster.node_port("rogue-1").is_none());
    }
}
