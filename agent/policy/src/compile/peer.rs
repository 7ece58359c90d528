//! Peer selectors in canonical form.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    index::pods::PodTraits,
    intern::Text,
    model::Protocol,
    selector::{Labels, Selector},
};

/// A peer selector: equal selectors are equal values, whoever wrote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Peer {
    pub(crate) base: Base,
    /// Restricts the peer to pods that declare this port: a named port of an egress rule means a
    /// different number on each destination.
    pub(crate) named: Option<Named>,
}

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Named {
    pub(crate) name: Text,
    pub(crate) protocol: Protocol,
}

/// The addresses or pods that a peer selector selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Base {
    /// Pods by their labels and those of their namespace.
    Pods(Arc<(Namespaces, Selector)>),
    /// Pods of a service and, if given, of a type.
    Service {
        namespace: Text,
        service: Text,
        kind: Option<Text>,
    },
    /// Pods with one label, in one namespace or everywhere.
    Label {
        namespace: Option<Text>,
        key: Text,
        value: Text,
    },
    /// Addresses, including those of pods.
    Block(Arc<Block>),
    /// Single addresses, including those of pods: one peer, however many there are.
    Addresses(Arc<BTreeSet<IpAddr>>),
    /// Addresses in the status of Nodes with these labels.
    Nodes(Arc<Selector>),
    /// Addresses of no known pod and no known node, and this node's own, which is the source of
    /// packets from elsewhere that this node masqueraded.
    Outside,
    /// Addresses of other nodes.
    AllNodes,
}

/// Namespaces by name or by label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Namespaces {
    Name(Text),
    Selected(Selector),
}

/// A block of addresses with exceptions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Block {
    pub(crate) cidr: IpNet,
    /// Sorted, without duplicates.
    pub(crate) except: Vec<IpNet>,
}

impl Base {
    /// Creates a selector of pods in one namespace.
    pub(crate) fn pods_in(namespace: &str, pods: Selector) -> Self {
        Self::Pods(Arc::new((Namespaces::Name(namespace.into()), pods)))
    }

    /// Creates a selector of pods in namespaces by label.
    pub(crate) fn pods_by(namespaces: Selector, pods: Selector) -> Self {
        Self::Pods(Arc::new((Namespaces::Selected(namespaces), pods)))
    }

    /// Creates a selector of every pod in every namespace.
    pub(crate) fn any_pod() -> Self {
        Self::pods_by(Selector::default(), Selector::default())
    }

    /// Creates a selector of a block of addresses.
    pub(crate) fn block(cidr: IpNet, except: &[IpNet]) -> Self {
        let mut except: Vec<_> = except.iter().map(IpNet::trunc).collect();
        except.sort();
        except.dedup();
        Self::Block(Arc::new(Block {
            cidr: cidr.trunc(),
            except,
        }))
    }

    /// Reports whether it selects pods by their traits. Always false for selectors that match by
    /// address.
    pub(crate) fn names(&self, namespace: &Labels, pods: &PodTraits) -> bool {
        match self {
            Self::Pods(both) => {
                let in_namespace = match &both.0 {
                    Namespaces::Name(name) => *name == pods.namespace,
                    Namespaces::Selected(selector) => selector.matches(namespace),
                };
                in_namespace && both.1.matches(&pods.labels)
            }
            Self::Service {
                namespace,
                service,
                kind,
            } => {
                *namespace == pods.namespace
                    && *service == pods.service
                    && (kind.is_none() || *kind == pods.kind)
            }
            Self::Label {
                namespace,
                key,
                value,
            } => {
                namespace.as_ref().is_none_or(|n| *n == pods.namespace)
                    && pods.labels.get(key) == Some(value)
            }
            Self::Block(_)
            | Self::Addresses(_)
            | Self::Nodes(_)
            | Self::Outside
            | Self::AllNodes => false,
        }
    }
}

impl Block {
    /// Reports whether it contains every address of its family.
    pub(crate) fn is_whole(&self) -> bool {
        self.cidr.prefix_len() == 0 && self.except.is_empty()
    }

    /// Reports whether it contains an address.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip) && !self.except.iter().any(|e| e.contains(&ip))
    }
}

impl Peer {
    /// Returns the port that it means on such pods: `None` if they don't declare it, `Some(None)`
    /// if the peer has no named port.
    pub(crate) fn number(&self, pods: &PodTraits) -> Option<Option<u16>> {
        match &self.named {
            None => Some(None),
            Some(n) => pods.named(&n.name, n.protocol).map(Some),
        }
    }
}

impl From<Base> for Peer {
    fn from(base: Base) -> Self {
        Self { base, named: None }
    }
}
