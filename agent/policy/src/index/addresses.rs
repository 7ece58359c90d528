//! Addresses of pods selected by their labels.

use std::net::IpAddr;

use crate::{
    intern::{HashMap, Pool},
    model::LabelSelector,
    selector::Selector,
};

use super::{Index, groups::PodId};

impl Index {
    /// Returns the addresses of the live quarantined pods that have a network of their own, in no
    /// order. Addresses that another pod has a better right to are excluded. The cost is
    /// proportional to the number of such pods.
    pub fn quarantined_addresses(&self) -> Vec<IpAddr> {
        self.addresses_of_live(self.cut_off())
    }

    /// Like [`Self::quarantined_addresses`], for the real pods of one Namespace that a selector
    /// selects. The cost is proportional to the number of pods in the Namespace.
    pub fn selected_addresses(&self, namespace: &str, selector: &LabelSelector) -> Vec<IpAddr> {
        let selector = Selector::new(&mut Pool::default(), selector);
        let pods = self.by_name.get(namespace).into_iter();
        let ids = pods.flat_map(HashMap::values).copied();
        self.addresses_of_live(ids.filter(|id| {
            let pod = self.entry(*id);
            pod.is_some_and(|pod| selector.matches(&pod.traits.labels))
        }))
    }

    fn addresses_of_live(&self, ids: impl Iterator<Item = PodId>) -> Vec<IpAddr> {
        let live = ids.filter(|id| self.entry(*id).is_some_and(|pod| self.is_live(pod)));
        live.flat_map(|id| self.addresses_of(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Kind, ObjectKey};
    use crate::testing::{index, pod};

    fn texts(mut found: Vec<IpAddr>) -> Vec<String> {
        found.sort();
        found.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_quarantine_counts_while_its_pod_is_alive_and_has_a_network_of_its_own() {
        let cut_off = || json!({"ringfence.dev/quarantine": "true"});
        let mut finished = pod("a/finished", "10.0.0.2", cut_off());
        finished["status"]["phase"] = json!("Succeeded");
        let mut on_the_node = pod("a/on-the-node", "192.0.2.1", cut_off());
        on_the_node["spec"]["hostNetwork"] = json!(true);
        let mut both = pod("a/both", "10.0.0.1", cut_off());
        both["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        let odd = json!({"ringfence.dev/quarantine": "perhaps"});
        let mut index = index([
            both,
            finished,
            on_the_node,
            pod("a/free", "10.0.0.3", json!({})),
            pod("a/odd", "10.0.0.4", odd),
        ]);
        assert_eq!(
            texts(index.quarantined_addresses()),
            ["10.0.0.1", "fd00::1"]
        );
        index.apply(crate::testing::object(pod("a/both", "10.0.0.1", json!({}))));
        assert_eq!(index.quarantined_addresses(), Vec::<IpAddr>::new());
        index.apply(crate::testing::object(pod("b/new", "10.0.0.5", cut_off())));
        assert_eq!(texts(index.quarantined_addresses()), ["10.0.0.5"]);
        index.delete(&ObjectKey::new(Kind::Pod, "b", "new"));
        assert_eq!(index.quarantined_addresses(), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_selector_selects_in_its_own_namespace_alone() {
        let labels = || json!({"app": "prometheus"});
        let index = index([
            pod("monitoring/p", "10.0.0.1", labels()),
            pod("monitoring/other", "10.0.0.2", json!({"app": "grafana"})),
            pod("tenant/p", "10.0.0.3", labels()),
        ]);
        let selector = LabelSelector {
            match_labels: [("app".to_owned(), "prometheus".to_owned())].into(),
            ..LabelSelector::default()
        };
        let select = |namespace, selector| texts(index.selected_addresses(namespace, selector));
        assert_eq!(select("monitoring", &selector), ["10.0.0.1"]);
        let all = LabelSelector::default();
        assert_eq!(select("monitoring", &all), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(select("nowhere", &all), Vec::<String>::new());
    }
}
