//! Operator settings for names and labels.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

/// Namespace and name of the Service behind cluster DNS if none is configured.
pub(crate) const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");
/// The label that Kubernetes' own manifests put on the Services and pods of cluster DNS.
pub(crate) const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
/// The address NodeLocal DNSCache listens on by default.
pub const NODE_LOCAL_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));

fn split(service: &str) -> (&str, &str) {
    service.split_once('/').unwrap_or((DNS_SERVICE.0, service))
}

use ipnet::IpNet;

pub use crate::index::ranges::can_be_pods;

/// Label names that the compiler reads, and facts that no object states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Prefix of Ringfence's own labels and annotations.
    pub label_prefix: String,
    /// Prefix of the labels that list the services a caller may call.
    pub egress_prefix: String,
    /// Prefix of the labels that list the service types a caller may call.
    pub egress_groups_prefix: String,
    /// Prefix of the labels that admit callers from outside the namespace.
    pub callers_prefix: String,
    /// Labels that name a pod's service; the first one present wins.
    pub service_labels: Vec<String>,
    /// How a service's name contains its type: dotted words, of which `{type}` is the type.
    /// Further words may follow.
    pub type_pattern: String,
    /// The Services behind cluster DNS, as `namespace/name`. If empty, [`DNS_SERVICE`] and any
    /// Service in its namespace with the same label.
    pub dns_services: Vec<String>,
    /// Addresses at which node-local caches answer for cluster DNS.
    pub dns_addresses: Vec<IpAddr>,
    /// Node addresses that appear neither in the node's status nor in its podCIDRs.
    pub node_addresses: Vec<IpAddr>,
    /// The cluster's pod ranges; if empty, the Nodes' podCIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            label_prefix: "ringfence.dev".into(),
            egress_prefix: "egress.ringfence.dev".into(),
            egress_groups_prefix: "egress-groups.ringfence.dev".into(),
            callers_prefix: "callers.ringfence.dev".into(),
            service_labels: vec![
                "ringfence.dev/service".into(),
                "app.kubernetes.io/name".into(),
                "app".into(),
            ],
            type_pattern: "service.{type}".into(),
            dns_services: Vec::new(),
            dns_addresses: vec![NODE_LOCAL_DNS],
            node_addresses: Vec::new(),
            pod_cidrs: Vec::new(),
        }
    }
}

impl Config {
    /// Reports whether a label is one of Ringfence's own.
    pub(crate) fn owns(&self, key: &str) -> bool {
        let Some((prefix, _)) = key.split_once('/') else {
            return false;
        };
        let is = |own: &str| {
            let before = prefix.strip_suffix(own);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        [&self.egress_prefix, &self.egress_groups_prefix]
            .into_iter()
            .any(|own| is(own))
            || [&self.label_prefix, &self.callers_prefix]
                .into_iter()
                .any(|own| *own == *prefix)
    }

    /// Returns the key of one of Ringfence's own labels or annotations.
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.label_prefix)
    }

    /// Returns the namespaces and names of the DNS Services known by name.
    pub(crate) fn dns(&self) -> impl Iterator<Item = (&str, &str)> {
        let told = self.dns_services.iter().map(|name| split(name));
        let default = self.dns_services.is_empty().then_some(DNS_SERVICE);
        told.chain(default)
    }

    /// Reports whether a Service is behind cluster DNS. The label counts only if no DNS Services
    /// are configured, and only in the one namespace that only cluster administrators can write
    /// to, so a tenant's Service is never mistaken for cluster DNS.
    pub(crate) fn is_dns(
        &self,
        (namespace, name): (&str, &str),
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let (key, value) = DNS_LABEL;
        let labelled = self.dns_services.is_empty()
            && namespace == DNS_SERVICE.0
            && labels.get(key).is_some_and(|found| found == value);
        labelled || self.dns().any(|known| known == (namespace, name))
    }

    /// Returns the type contained in a service's name, if the name fits the pattern.
    pub(crate) fn type_of_name<'a>(&self, service: &'a str) -> Option<&'a str> {
        let mut words = service.split('.');
        let mut found = None;
        for expected in self.type_pattern.split('.') {
            let word = words.next().filter(|w| !w.is_empty())?;
            match expected {
                "{type}" => found = Some(word),
                _ if expected == word => {}
                _ => return None,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_the_second_word_of_a_name_that_starts_with_service() {
        let config = Config::default();
        assert_eq!(config.type_of_name("service.api.foo"), Some("api"));
        assert_eq!(config.type_of_name("service.account"), Some("account"));
        assert_eq!(config.type_of_name("service"), None);
        assert_eq!(config.type_of_name("web.api.foo"), None);
    }
}
