//! Peer selectors in canonical form.

use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    model::Protocol,
    selector::Selector,
    view::{Group, View},
};

/// One peer selector: equal ones are equal values, whoever wrote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Peer {
    pub(crate) base: Base,
    /// Only pods for which this name stands for this number: named ports of
    /// egress rules mean another port on each destination.
    pub(crate) named: Option<Named>,
}

/// A named port and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

/// Whom a peer selector names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Base {
    /// Pods by their and their namespace's labels.
    Pods(Arc<(Namespaces, Selector)>),
    /// Pods of a service and, if given, of a type.
    Service {
        namespace: String,
        service: String,
        kind: Option<String>,
    },
    /// Pods with one label, in one namespace or everywhere.
    Label {
        namespace: Option<String>,
        key: String,
        value: String,
    },
    /// Addresses; those of pods too.
    Block(Arc<Block>),
    /// Addresses of no known pod and no known node, and this node's own: a
    /// packet from elsewhere that this node masqueraded.
    Outside,
    /// Addresses of other nodes.
    AllNodes,
}

/// Namespaces by name or by label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Namespaces {
    Name(String),
    Selected(Selector),
}

/// A block of addresses without some parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Block {
    pub(crate) cidr: IpNet,
    /// Sorted, without duplicates.
    pub(crate) except: Vec<IpNet>,
}

impl Base {
    /// Pods of one namespace.
    pub(crate) fn pods_in(namespace: &str, pods: Selector) -> Self {
        let namespaces = Namespaces::Name(namespace.to_owned());
        Self::Pods(Arc::new((namespaces, pods)))
    }

    /// Every pod everywhere.
    pub(crate) fn any_pod() -> Self {
        let namespaces = Namespaces::Selected(Selector::default());
        Self::Pods(Arc::new((namespaces, Selector::default())))
    }

    /// A block of addresses.
    pub(crate) fn block(cidr: IpNet, except: &[IpNet]) -> Self {
        let mut except: Vec<_> = except.iter().map(IpNet::trunc).collect();
        except.sort();
        except.dedup();
        Self::Block(Arc::new(Block {
            cidr: cidr.trunc(),
            except,
        }))
    }

    /// One address.
    pub(crate) fn address(ip: std::net::IpAddr) -> Self {
        Self::block(IpNet::from(ip), &[])
    }

    /// Whether it names the pods of a group by what they are. Never true of
    /// selectors that go by address.
    pub(crate) fn names(&self, view: &View<'_>, group: &Group<'_>) -> bool {
        match self {
            Self::Pods(both) => {
                let (namespaces, pods) = &**both;
                let namespace = match namespaces {
                    Namespaces::Name(name) => name == group.namespace,
                    Namespaces::Selected(s) => s.matches(view.namespace(group.namespace)),
                };
                namespace && pods.matches(group.labels)
            }
            Self::Service {
                namespace,
                service,
                kind,
            } => {
                namespace == group.namespace
                    && *service == group.service
                    && (kind.is_none() || *kind == group.kind)
            }
            Self::Label {
                namespace,
                key,
                value,
            } => {
                namespace.as_ref().is_none_or(|n| n == group.namespace)
                    && group.labels.get(key) == Some(value)
            }
            Self::Block(_) | Self::Outside | Self::AllNodes => false,
        }
    }
}

impl Peer {
    /// Whether a group's named port stands for the number asked, if one is asked.
    pub(crate) fn fits(&self, group: &Group<'_>) -> bool {
        self.named
            .as_ref()
            .is_none_or(|n| group.named(&n.name, n.protocol) == Some(n.number))
    }
}

impl From<Base> for Peer {
    fn from(base: Base) -> Self {
        Self { base, named: None }
    }
}
