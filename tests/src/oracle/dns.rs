//! DNS, which stays open to a pod whose egress labels are in force.

use serde_json::Value;

use super::object::{labels, list, name, named_port, namespace, protocol_number, text};
use super::{Case, Oracle};

const DNS_NAMESPACE: &str = "kube-system";
const DNS_SERVICE: &str = "kube-dns";

impl Oracle<'_> {
    /// Whether the packet asks the cluster's DNS: its Service's own address, a
    /// pod behind it on the port where it listens, or such a pod's port 53.
    pub(super) fn is_dns(&self, case: &Case<'_>) -> bool {
        let plain = case.port == 53 && matches!(case.protocol, 6 | 17);
        let service = self
            .of_kind("Service")
            .find(|s| namespace(s) == DNS_NAMESPACE && name(s) == DNS_SERVICE);
        let pod = case.peer_pod.filter(|pod| namespace(pod) == DNS_NAMESPACE);
        let Some(service) = service else {
            // Without the Service: the label that its pods commonly carry.
            return plain && pod.is_some_and(|p| labels(p).get("k8s-app") == Some(&"kube-dns"));
        };
        let ports = || list(service, "/spec/ports").iter();
        if service_addresses(service).any(|ip| ip.parse() == Ok(case.peer)) {
            return ports().any(|port| {
                let number = port.get("port").and_then(Value::as_u64);
                of_protocol(port, case) && number == Some(u64::from(case.port))
            });
        }
        let behind = pod.filter(|pod| is_behind(service, pod));
        behind.is_some_and(|pod| plain || ports().any(|port| is_target(port, pod, case)))
    }
}

fn service_addresses(service: &Value) -> impl Iterator<Item = &str> {
    let many = list(service, "/spec/clusterIPs").iter();
    many.filter_map(Value::as_str)
        .chain([text(service, "/spec/clusterIP")])
}

/// A Service's selector is plain labels; without one it selects nothing.
pub(super) fn is_behind(service: &Value, pod: &Value) -> bool {
    let labels = labels(pod);
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    selector.is_some_and(|wanted| {
        !wanted.is_empty()
            && wanted
                .iter()
                .all(|(key, value)| labels.get(key.as_str()).copied() == value.as_str())
    })
}

fn of_protocol(port: &Value, case: &Case<'_>) -> bool {
    protocol_number(text(port, "/protocol")) == Some(case.protocol)
}

/// Whether the packet goes where the Service's port leads on this pod.
pub(super) fn is_target(port: &Value, pod: &Value, case: &Case<'_>) -> bool {
    let target = port.get("targetPort").or_else(|| port.get("port"));
    of_protocol(port, case)
        && match target {
            Some(Value::String(called)) => {
                named_port(pod, called, case.protocol) == Some(case.port)
            }
            Some(number) => number.as_u64() == Some(u64::from(case.port)),
            None => false,
        }
}
