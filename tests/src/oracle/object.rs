//! Reading Kubernetes objects, straight from their JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::{End, Oracle};

pub(super) type Labels<'a> = BTreeMap<&'a str, &'a str>;

/// The string at a JSON pointer, "" if there is none.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

/// The list at a JSON pointer; absent, null and empty are one.
pub(super) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    let found = value.pointer(path).and_then(Value::as_array);
    found.map_or(&[], Vec::as_slice)
}

/// A field that is there and not null.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|v| !v.is_null())
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn namespace(object: &Value) -> &str {
    match text(object, "/metadata/namespace") {
        "" => "default",
        given => given,
    }
}

/// A value of a map of strings, in which null is empty.
pub(super) fn string(value: &Value) -> Option<&str> {
    match value {
        Value::Null => Some(""),
        value => value.as_str(),
    }
}

fn strings<'a>(object: &'a Value, path: &str) -> Labels<'a> {
    let map = object.pointer(path).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), string(value)?)))
        .collect()
}

pub(super) fn labels(object: &Value) -> Labels<'_> {
    strings(object, "/metadata/labels")
}

pub(super) fn annotations(object: &Value) -> Labels<'_> {
    strings(object, "/metadata/annotations")
}

/// Corner 9: a finished pod has lost its address. (A terminating one hasn't.)
pub(super) fn finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Corner 10: such a pod is the node.
pub(super) fn host_network(pod: &Value) -> bool {
    pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true))
}

/// All addresses that a pod's status shows.
pub(super) fn shown_addresses(pod: &Value) -> Vec<IpAddr> {
    let many = list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip"));
    many.chain([text(pod, "/status/podIP")])
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// Ports that a pod's containers declare: name, protocol, number.
pub(super) fn declared_ports(pod: &Value) -> Vec<(&str, u8, u16)> {
    let containers = list(pod, "/spec/containers").iter();
    let init = list(pod, "/spec/initContainers").iter();
    // A sidecar runs as long as the pod does.
    let sidecars = init.filter(|one| text(one, "/restartPolicy") == "Always");
    containers
        .chain(sidecars)
        .flat_map(|container| list(container, "/ports"))
        .filter_map(|port| {
            let number = port.get("containerPort")?.as_u64()?;
            Some((
                text(port, "/name"),
                protocol_number(text(port, "/protocol"))?,
                u16::try_from(number).ok()?,
            ))
        })
        .collect()
}

/// The port that a name means for one protocol: the first that a pod declares
/// so, as where Kubernetes itself resolves the target port of a Service.
pub(super) fn named_port(pod: &Value, wanted: &str, protocol: u8) -> Option<u16> {
    let ports = declared_ports(pod);
    let mut named = ports.iter().filter(|p| p.0 == wanted && p.1 == protocol);
    named.next().map(|p| p.2)
}

/// Corner 7: no protocol means TCP.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "" | "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

impl<'a> Oracle<'a> {
    pub(super) fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let objects = self.objects.iter();
        objects.filter(move |object| text(object, "/kind") == kind)
    }

    /// Pods with an interface of their own that still have it.
    pub(super) fn living_pods(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.of_kind("Pod")
            .filter(|pod| !finished(pod) && !host_network(pod))
    }

    pub(super) fn pod(&self, space: &str, called: &str) -> Option<&'a Value> {
        self.of_kind("Pod")
            .find(|pod| namespace(pod) == space && name(pod) == called)
    }

    /// The pod that an address means. If several show it: the running one,
    /// rather one that isn't going away, then the smallest UID.
    pub(super) fn holder(&self, address: IpAddr) -> Option<&'a Value> {
        self.living_pods()
            .filter(|pod| shown_addresses(pod).contains(&address))
            .min_by_key(|pod| {
                (
                    text(pod, "/status/phase") != "Running",
                    pod.pointer("/metadata/deletionTimestamp").is_some(),
                    text(pod, "/metadata/uid"),
                )
            })
    }

    /// The endpoint at an end of a probe, if it is one that is judged here.
    pub(super) fn managed(&self, end: &End) -> Option<&'a Value> {
        let (space, called) = end.pod.as_ref()?;
        self.living_pods().find(|pod| {
            namespace(pod) == space
                && name(pod) == called
                && shown_addresses(pod).contains(&end.address)
                && self.node.is_none_or(|n| text(pod, "/spec/nodeName") == n)
        })
    }

    pub(super) fn namespace_object(&self, called: &str) -> Option<&'a Value> {
        self.of_kind("Namespace").find(|n| name(n) == called)
    }

    /// Corner 15: every namespace carries its name as a label, known or not.
    pub(super) fn namespace_labels(&self, called: &'a str) -> Labels<'a> {
        let object = self.namespace_object(called);
        let mut all = object.map(labels).unwrap_or_default();
        all.insert("kubernetes.io/metadata.name", called);
        all
    }
}
