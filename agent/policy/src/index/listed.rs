//! Replaces all objects of a kind at once.

use crate::{
    intern::{HashSet, Text},
    model::{Kind, Object, ObjectKey, ObjectKind},
};

use super::{Index, memory::Sort};

impl Index {
    /// Replaces all objects of a kind; objects of other kinds in `objects` are applied as well.
    ///
    /// Closed forms whose policy isn't among `objects` are removed too: call
    /// [`Index::apply_closed`] afterwards for the invalid objects of the same listing.
    pub fn reset(&mut self, kind: &ObjectKind, objects: Vec<Object>) {
        let of_kind = objects.iter().filter(|o| o.kind() == *kind);
        let name = |o: &Object| (o.meta().namespace.clone(), o.meta().name.clone());
        let there: HashSet<_> = of_kind.map(name).collect();
        let mut gone = self.names(kind);
        gone.retain(|key| !there.contains(key));
        for (namespace, name) in gone {
            self.delete(&ObjectKey::new(kind.clone(), &namespace, &name));
        }
        for object in objects {
            self.apply(object);
        }
    }

    /// Returns namespace and name of every object of a kind, in no order.
    fn names(&self, kind: &ObjectKind) -> Vec<(String, String)> {
        let cluster = |name: &Text| (String::new(), name.as_ref().to_owned());
        let both = |ns: &Text, name: &Text| (ns.as_ref().to_owned(), name.as_ref().to_owned());
        let kind = match kind {
            ObjectKind::Read(kind) => kind,
            ObjectKind::Other(workload) => {
                let all = self.stand_ins.keys();
                let of_kind = all.filter(|(kind, ..)| **kind == **workload);
                return of_kind.map(|(_, ns, name)| both(ns, name)).collect();
            }
        };
        match kind {
            Kind::Pod => {
                let all = self.by_name.iter();
                all.flat_map(|(ns, pods)| pods.keys().map(move |n| both(ns, n)))
                    .collect()
            }
            Kind::Namespace => {
                let all = self.spaces.iter().filter(|(_, s)| s.has_object);
                all.map(|(name, _)| cluster(name)).collect()
            }
            Kind::NetworkPolicy => {
                let all = self.policies.iter();
                all.flat_map(|(ns, own)| own.keys().map(move |n| both(ns, n)))
                    .collect()
            }
            Kind::ClusterNetworkPolicy => self.cluster_policies.keys().map(cluster).collect(),
            Kind::Service => {
                let refused = self.refused_names(Sort::Service);
                self.services.keys().chain(refused).cloned().collect()
            }
            Kind::EndpointSlice => {
                let refused = self.refused_names(Sort::EndpointSlice);
                self.slices.keys().chain(refused).cloned().collect()
            }
            Kind::Node => self.nodes.keys().map(cluster).collect(),
        }
    }
}
