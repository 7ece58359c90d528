//! Decides who may read the metrics page.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use ringfence_policy::clients::Clients;
use ringfence_policy::index::Index;

use super::refused::Reason;

/// The clients that `--metrics-from` admits, and those that are never admitted: pods under
/// quarantine as of the last pass.
#[derive(Debug, Default)]
pub struct Admission {
    /// Admitted clients; everybody if empty.
    from: Vec<Clients>,
    pods: RwLock<Arc<Pods>>,
}

/// Addresses of pods that are classified by their labels.
#[derive(Debug, Default)]
struct Pods {
    quarantined: HashSet<IpAddr>,
    selected: HashSet<IpAddr>,
}

impl Admission {
    /// Admits these clients; everybody if there are none.
    pub fn new(from: Vec<Clients>) -> Self {
        Self {
            from,
            pods: RwLock::default(),
        }
    }

    /// Sets the addresses under quarantine from the datapath, until the first pass knows all pods.
    /// No pod is selected until then.
    pub fn begin_with(&self, quarantined: Vec<IpAddr>) {
        self.put(Pods {
            quarantined: quarantined.into_iter().collect(),
            selected: HashSet::new(),
        });
    }

    /// Updates the addresses from the labels of all pods. The cost is proportional to the pods
    /// under quarantine and in the Namespaces of `--metrics-from`.
    pub fn refresh(&self, index: &Index) {
        let selected = self.from.iter().filter_map(|clients| match clients {
            Clients::Block(_) => None,
            Clients::Pods {
                namespace,
                selector,
            } => Some(index.selected_addresses(namespace, selector)),
        });
        self.put(Pods {
            selected: selected.flatten().collect(),
            quarantined: index.quarantined_addresses().into_iter().collect(),
        });
    }

    fn put(&self, pods: Pods) {
        *self.pods.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pods);
    }

    /// Decides whether a peer may read the metrics page. An IPv4-mapped IPv6 address counts as the
    /// IPv4 address.
    pub fn admit(&self, peer: IpAddr) -> Result<(), Reason> {
        let peer = peer.to_canonical();
        let pods = self.not_cut_off(peer)?;
        let is_listed = || self.from.iter().any(|clients| clients.covers(peer));
        if self.from.is_empty() || is_listed() || pods.selected.contains(&peer) {
            Ok(())
        } else {
            Err(Reason::NotListed)
        }
    }

    /// Decides whether a peer may probe the agent: everybody who isn't under quarantine.
    pub fn admit_probe(&self, peer: IpAddr) -> Result<(), Reason> {
        self.not_cut_off(peer.to_canonical()).map(drop)
    }

    /// A link-local address belongs to any host on the link and identifies no pod. A pod under
    /// quarantine has one, too, so clients with such an address aren't served.
    fn not_cut_off(&self, peer: IpAddr) -> Result<Arc<Pods>, Reason> {
        let link_local = match peer {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if link_local {
            return Err(Reason::LinkLocal);
        }
        let pods = Arc::clone(&self.pods.read().unwrap_or_else(PoisonError::into_inner));
        if pods.quarantined.contains(&peer) {
            return Err(Reason::Quarantine);
        }
        Ok(pods)
    }
}

#[cfg(test)]
mod tests {
    use ringfence_policy::config::Config;
    use ringfence_policy::model::{Object, Parsed};

    use super::*;

    fn admission(from: &[&str]) -> Admission {
        Admission::new(from.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn admit(admission: &Admission, peer: &str) -> Result<(), Reason> {
        admission.admit(peer.parse().unwrap())
    }

    /// Returns an index of pods in namespace `ns`, given the address and labels of each.
    fn index(pods: &[(&str, &str)]) -> Index {
        let mut index = Index::new(Config::default());
        for (n, (ip, labels)) in pods.iter().enumerate() {
            let pod = serde_json::json!({
                "kind": "Pod",
                "metadata": {
                    "namespace": "ns", "name": format!("p{n}"),
                    "labels": serde_json::from_str::<serde_json::Value>(labels).unwrap(),
                },
                "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "podIP": ip},
            });
            let Ok(Parsed::Object(pod)) = Object::from_value(pod) else {
                panic!("no pod");
            };
            index.apply(*pod);
        }
        index
    }

    const CUT_OFF: &str = r#"{"ringfence.dev/quarantine": "true", "app": "prometheus"}"#;

    #[test]
    fn everybody_is_served_by_default_but_a_pod_under_quarantine() {
        let open = admission(&[]);
        assert_eq!(admit(&open, "10.0.0.1"), Ok(()));
        open.refresh(&index(&[("10.0.0.1", CUT_OFF), ("fd00::1", CUT_OFF)]));
        for peer in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"] {
            assert_eq!(admit(&open, peer), Err(Reason::Quarantine), "{peer}");
        }
        for peer in ["10.0.0.2", "::ffff:10.0.0.2", "fd00::2", "127.0.0.1", "::1"] {
            assert_eq!(admit(&open, peer), Ok(()), "{peer}");
        }
        open.refresh(&index(&[("10.0.0.1", "{}")]));
        assert_eq!(admit(&open, "10.0.0.1"), Ok(()), "let go");
    }

    #[test]
    fn nobody_is_served_by_an_address_that_names_no_pod() {
        let open = admission(&[]);
        for peer in ["fe80::1", "169.254.1.1", "::ffff:169.254.1.1"] {
            assert_eq!(admit(&open, peer), Err(Reason::LinkLocal), "{peer}");
        }
        let listed = admission(&["fe80::/10"]);
        assert_eq!(admit(&listed, "fe80::1"), Err(Reason::LinkLocal));
    }

    #[test]
    fn only_those_of_metrics_from_are_served_where_it_is_given() {
        let some = admission(&["192.0.2.0/24", "2001:db8::/32", "ns/app=prometheus"]);
        let pods = [
            ("10.0.0.1", r#"{"app": "prometheus"}"#),
            ("10.0.0.2", r#"{"app": "other"}"#),
            ("10.0.0.3", CUT_OFF),
        ];
        assert_eq!(admit(&some, "10.0.0.1"), Err(Reason::NotListed), "unknown");
        some.refresh(&index(&pods));
        for peer in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "10.0.0.1"] {
            assert_eq!(admit(&some, peer), Ok(()), "{peer}");
        }
        for peer in ["10.0.0.2", "127.0.0.1", "198.51.100.1", "2001:db9::1"] {
            assert_eq!(admit(&some, peer), Err(Reason::NotListed), "{peer}");
        }
        assert_eq!(admit(&some, "10.0.0.3"), Err(Reason::Quarantine));
        let block = admission(&["10.0.0.0/8"]);
        block.refresh(&index(&pods));
        assert_eq!(admit(&block, "10.0.0.3"), Err(Reason::Quarantine));
    }

    #[test]
    fn until_the_first_pass_what_the_datapath_holds_under_quarantine_counts() {
        let open = admission(&[]);
        open.begin_with(vec!["10.0.0.1".parse().unwrap()]);
        assert_eq!(admit(&open, "10.0.0.1"), Err(Reason::Quarantine));
        open.refresh(&index(&[]));
        assert_eq!(admit(&open, "10.0.0.1"), Ok(()));
    }
}
