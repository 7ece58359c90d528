//! Manifests as text: what the agent reads, and tests change.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A pod to be written down.
#[derive(Clone, Debug)]
pub struct Manifest {
    name: String,
    node: String,
    number: u8,
    labels: Vec<(String, String)>,
}

impl Manifest {
    /// A pod of namespace `shop`; its number is the last part of its addresses.
    pub fn pod(name: &str, node: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            number,
            labels: vec![("app".to_owned(), name.to_owned())],
        }
    }

    /// The same with one more label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's UID.
    pub fn uid(&self) -> String {
        format!("uid-of-{}", self.name)
    }

    /// IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 0, self.number)
    }

    /// IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        let number = u16::from(self.number);
        Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number)
    }

    /// As YAML.
    pub fn yaml(&self) -> String {
        let (name, node, v4, v6) = (&self.name, &self.node, self.v4(), self.v6());
        let uid = self.uid();
        let mut labels = String::new();
        for (key, value) in &self.labels {
            // Writing to a String can't fail.
            let _ = write!(labels, "\n    {key}: \"{value}\"");
        }
        format!(
            "apiVersion: v1\n\
             kind: Pod\n\
             metadata:\n  name: {name}\n  namespace: shop\n  uid: {uid}\n  labels:{labels}\n\
             spec:\n  nodeName: {node}\n  containers:\n    - {{ name: main, image: example.com/{name} }}\n\
             status:\n  phase: Running\n  podIP: {v4}\n  podIPs:\n    - ip: {v4}\n    - ip: \"{v6}\"\n"
        )
    }
}

/// The namespace of all pods, and nodes by name with their addresses.
pub(super) fn cluster(nodes: &[(&str, [String; 2])]) -> String {
    let mut yaml = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n".to_owned();
    for (name, [v4, v6]) in nodes {
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nstatus:\n  addresses:\n    \
             - {{ type: InternalIP, address: {v4} }}\n    \
             - {{ type: InternalIP, address: \"{v6}\" }}\n"
        );
    }
    yaml
}
