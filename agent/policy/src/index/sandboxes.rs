//! The sandboxes that the node's pod runtime reports: which pods really run here and which
//! addresses they have, before the API server shows either.

use std::{collections::BTreeMap, net::IpAddr};

use crate::intern::Text;

use super::{Index, groups::PodId, pods::PodEntry};

/// The sandbox of one pod on the node being compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID, where the runtime records it.
    pub uid: Option<String>,
    /// The addresses assigned by its network plugin.
    pub addresses: Vec<IpAddr>,
}

/// The sandboxes by namespace and name of their pods, newest last.
pub(super) type Sandboxes = BTreeMap<(String, String), Vec<Sandbox>>;

impl Index {
    /// Sets the sandboxes of the node, oldest first; returns whether they changed.
    ///
    /// A pod with a sandbox has a better right to its addresses than any other pod that shows them.
    /// Until its status has addresses, it gets those of the sandbox.
    pub fn set_sandboxes(&mut self, sandboxes: impl IntoIterator<Item = Sandbox>) -> bool {
        let mut now = Sandboxes::new();
        for sandbox in sandboxes {
            let key = (sandbox.namespace.clone(), sandbox.name.clone());
            now.entry(key).or_default().push(sandbox);
        }
        if now == self.sandboxes {
            return false;
        }
        let before = std::mem::replace(&mut self.sandboxes, now);
        let keys = before.keys().chain(self.sandboxes.keys());
        let changed = keys.filter(|key| before.get(*key) != self.sandboxes.get(*key));
        let mut ids: Vec<PodId> = changed
            .filter_map(|(namespace, name)| self.id_of(namespace, name))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let Some(pod) = self.entry(id) else { continue };
            let mut lent = pod.clone();
            self.lend(&mut lent);
            if self.entry(id) != Some(&lent) {
                self.change_pod(id, |pod, _, _| *pod = lent);
            }
        }
        true
    }

    /// Applies the state of its sandbox to a pod, or reverts it if there is none.
    pub(super) fn lend(&self, pod: &mut PodEntry) {
        let sandbox = self.sandbox(pod);
        pod.sandboxed = sandbox.is_some();
        if pod.borrowed || pod.addresses.is_empty() {
            let addresses = sandbox.map(|sandbox| sandbox.addresses.as_slice());
            pod.addresses = addresses.unwrap_or_default().into();
            pod.borrowed = !pod.addresses.is_empty();
        }
    }

    /// Returns the sandbox of a pod; the newest if there are several.
    fn sandbox(&self, pod: &PodEntry) -> Option<&Sandbox> {
        if self.sandboxes.is_empty() || pod.finished || pod.host_network {
            return None;
        }
        let name = |text: &Text| text.as_ref().to_owned();
        let key = (name(&pod.traits.namespace), name(&pod.name));
        let all = self.sandboxes.get(&key)?.iter().rev();
        let mut own = all.filter(|one| {
            one.uid
                .as_deref()
                .is_none_or(|uid| uid == pod.runtime_uid())
        });
        own.next()
    }

    fn id_of(&self, namespace: &str, name: &str) -> Option<PodId> {
        self.by_name.get(namespace)?.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{index, object, pod};

    fn sandbox(name: &str, uid: Option<&str>, ip: &str) -> Sandbox {
        Sandbox {
            namespace: "a".into(),
            name: name.into(),
            uid: uid.map(str::to_owned),
            addresses: vec![ip.parse().expect("an address")],
        }
    }

    fn new_pod(name: &str) -> Value {
        let mut pod = pod(name, "10.0.0.1", json!({}));
        pod["status"] = json!({"phase": "Pending"});
        pod
    }

    fn at(index: &Index, ip: &str) -> Option<String> {
        let ip: IpAddr = ip.parse().expect("an address");
        index.pod_at(ip).map(|pod| pod.key().to_string())
    }

    #[test]
    fn a_pod_without_an_address_has_its_sandboxs_until_its_status_shows_one() {
        let mut index = index([new_pod("a/web")]);
        assert_eq!(at(&index, "10.0.0.1"), None);
        assert!(index.set_sandboxes([sandbox("web", Some("web"), "10.0.0.1")]));
        assert!(!index.set_sandboxes([sandbox("web", Some("web"), "10.0.0.1")]));
        assert_eq!(at(&index, "10.0.0.1").as_deref(), Some("a/web"));
        // Applied again, still without an address.
        index.apply(object(new_pod("a/web")));
        assert_eq!(at(&index, "10.0.0.1").as_deref(), Some("a/web"));
        index.apply(object(pod("a/web", "10.0.0.2", json!({}))));
        assert_eq!(at(&index, "10.0.0.1"), None);
        assert_eq!(at(&index, "10.0.0.2").as_deref(), Some("a/web"));
        index.set_sandboxes([]);
        assert_eq!(at(&index, "10.0.0.2").as_deref(), Some("a/web"));
    }

    #[test]
    fn a_sandbox_that_goes_takes_its_addresses_along() {
        let mut index = index([new_pod("a/web")]);
        index.set_sandboxes([sandbox("web", None, "10.0.0.1")]);
        assert_eq!(at(&index, "10.0.0.1").as_deref(), Some("a/web"));
        index.set_sandboxes([]);
        assert_eq!(at(&index, "10.0.0.1"), None);
    }

    #[test]
    fn a_sandbox_of_an_earlier_pod_of_that_name_says_nothing_of_the_new_one() {
        let mut index = index([new_pod("a/web")]);
        index.set_sandboxes([sandbox("web", Some("earlier"), "10.0.0.1")]);
        assert_eq!(at(&index, "10.0.0.1"), None);
        let both = [
            sandbox("web", Some("earlier"), "10.0.0.1"),
            sandbox("web", Some("web"), "10.0.0.2"),
        ];
        index.set_sandboxes(both);
        assert_eq!(at(&index, "10.0.0.2").as_deref(), Some("a/web"));
    }

    #[test]
    fn a_static_pods_sandbox_is_known_by_the_uid_that_its_node_gave_it() {
        let mut mirror = new_pod("a/web");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "of-the-file"});
        let mut index = index([mirror]);
        index.set_sandboxes([sandbox("web", Some("web"), "10.0.0.1")]);
        assert_eq!(at(&index, "10.0.0.1"), None);
        index.set_sandboxes([sandbox("web", Some("of-the-file"), "10.0.0.1")]);
        assert_eq!(at(&index, "10.0.0.1").as_deref(), Some("a/web"));
    }

    #[test]
    fn of_two_pods_with_one_address_the_one_that_runs_here_has_it_and_else_the_newer() {
        let aged = |name: &str, created: &str| {
            let mut pod = pod(name, "10.0.0.1", json!({}));
            pod["metadata"]["creationTimestamp"] = json!(created);
            pod
        };
        let mut index = index([
            aged("a/lost", "2026-11-01T00:00:00Z"),
            aged("a/web", "2026-10-31T23:59:59Z"),
        ]);
        assert_eq!(at(&index, "10.0.0.1").as_deref(), Some("a/lost"));
        index.set_sandboxes([sandbox("web", Some("web"), "10.0.0.1")]);
        assert_eq!(at(&index, "10.0.0.1").as_deref(), Some("a/web"));
    }
}
