//! DNS, which stays open to a pod whose egress labels are in force.

use serde_json::Value;

use super::object::{
    finished, host_network, labels, list, name, named_port, namespace, protocol_number,
    shown_addresses, text,
};
use super::{Case, Oracle};

const DNS_NAMESPACE: &str = "kube-system";
const DNS_SERVICE: &str = "kube-dns";
/// Where the cache on a node answers.
const NODE_LOCAL: &str = "169.254.20.10";

impl Oracle<'_> {
    /// Whether the packet asks the cluster's DNS: the cache on the node, a DNS Service's own
    /// address, or whoever is behind one, on the port where it listens.
    pub(super) fn is_dns(&self, case: &Case<'_>) -> bool {
        let plain = case.port == 53 && matches!(case.protocol, 6 | 17);
        if plain && NODE_LOCAL.parse() == Ok(case.peer) {
            return true;
        }
        let services: Vec<&Value> = self.of_kind("Service").filter(|s| is_of_dns(s)).collect();
        let pod = case.peer_pod.filter(|pod| namespace(pod) == DNS_NAMESPACE);
        if services.is_empty() {
            // Without a Service: the label that its pods commonly carry.
            return plain && pod.is_some_and(|p| labels(p).get("k8s-app") == Some(&"kube-dns"));
        }
        services
            .iter()
            .any(|s| self.leads_there(s, pod, plain, case))
    }

    fn leads_there(
        &self,
        service: &Value,
        pod: Option<&Value>,
        plain: bool,
        case: &Case<'_>,
    ) -> bool {
        let all = list(service, "/spec/ports");
        let is_53 = |port: &&Value| {
            let number = port.get("port").and_then(Value::as_u64);
            number == Some(53) && text(port, "/protocol") != "SCTP"
        };
        let ports: Vec<&Value> = all.iter().filter(is_53).collect();
        if ports.is_empty() && !all.is_empty() {
            return false;
        }
        let own = service_addresses(service).any(|ip| ip.parse() == Ok(case.peer));
        if own && plain && ports.iter().any(|port| of_protocol(port, case)) {
            return true;
        }
        // Pods on the host are the node to everybody: at the address, whoever has it.
        let hosts = self.of_kind("Pod").filter(|pod| {
            let alive = host_network(pod) && !finished(pod);
            alive && shown_addresses(pod).contains(&case.peer)
        });
        let mut behind = hosts.chain(pod).filter(|pod| is_behind(service, pod));
        behind.any(|pod| plain || ports.iter().any(|port| is_target(port, pod, case)))
            || self.is_in_slice(service, &ports, case)
    }

    /// Whether an EndpointSlice names the address behind one of the Service's ports.
    fn is_in_slice(&self, service: &Value, ports: &[&Value], case: &Case<'_>) -> bool {
        let selects = service
            .pointer("/spec/selector")
            .is_some_and(|s| *s != Value::Null);
        self.of_kind("EndpointSlice").any(|slice| {
            let own = labels(slice);
            let made = own.get("endpointslice.kubernetes.io/managed-by")
                == Some(&"endpointslice-controller.k8s.io");
            let mut addresses = list(slice, "/endpoints")
                .iter()
                .flat_map(|e| list(e, "/addresses"))
                .filter_map(Value::as_str);
            namespace(slice) == namespace(service)
                && own.get("kubernetes.io/service-name") == Some(&name(service))
                && !(selects && made)
                && addresses.any(|ip| ip.parse() == Ok(case.peer))
                && ports.iter().any(|port| {
                    let named = |p: &&Value| text(p, "/name") == text(port, "/name");
                    let found = list(slice, "/ports").iter().find(named);
                    let number = found.and_then(|p| p.get("port")).and_then(Value::as_u64);
                    of_protocol(port, case) && number == Some(u64::from(case.port))
                })
        })
    }
}

/// Whether a Service is of the cluster's DNS: only in the one namespace.
fn is_of_dns(service: &Value) -> bool {
    namespace(service) == DNS_NAMESPACE
        && (name(service) == DNS_SERVICE || labels(service).get("k8s-app") == Some(&"kube-dns"))
}

fn service_addresses(service: &Value) -> impl Iterator<Item = &str> {
    let many = list(service, "/spec/clusterIPs").iter();
    many.filter_map(Value::as_str)
        .chain([text(service, "/spec/clusterIP")])
}

/// A Service's selector is plain labels; without one it selects nothing.
fn is_behind(service: &Value, pod: &Value) -> bool {
    let labels = labels(pod);
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    selector.is_some_and(|wanted| {
        namespace(pod) == namespace(service)
            && !wanted.is_empty()
            && wanted
                .iter()
                .all(|(key, value)| labels.get(key.as_str()).copied() == value.as_str())
    })
}

fn of_protocol(port: &Value, case: &Case<'_>) -> bool {
    protocol_number(text(port, "/protocol")) == Some(case.protocol)
}

/// Whether the packet goes where the Service's port leads on this pod.
fn is_target(port: &Value, pod: &Value, case: &Case<'_>) -> bool {
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
