//! Peer selectors in canonical form.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    index::pods::Shape,
    intern::Text,
    model::Protocol,
    selector::{Labels, Selector},
};

/// One peer selector: equal ones are equal values, whoever wrote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Peer {
    pub(crate) base: Base,
    /// Only pods that declare this port: named ports of egress rules mean
    /// another number on each destination.
    pub(crate) named: Option<Named>,
}

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Named {
    pub(crate) name: Text,
    pub(crate) protocol: Protocol,
}

/// Whom a peer selector names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Base {
    /// Pods by their and their namespace's labels.
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
    /// Addresses; those of pods too.
    Block(Arc<Block>),
    /// Single addresses, those of pods too: one peer, however many they are.
    Addresses(Arc<BTreeSet<IpAddr>>),
    /// Addresses in the status of Nodes with these labels.
    Nodes(Arc<Selector>),
    /// Addresses of no known pod and no known node, and this node's own: a
    /// packet from elsewhere that this node masqueraded.
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
        Self::Pods(Arc::new((Namespaces::Name(namespace.into()), pods)))
    }

    /// Pods of namespaces by label.
    pub(crate) fn pods_by(namespaces: Selector, pods: Selector) -> Self {
        Self::Pods(Arc::new((Namespaces::Selected(namespaces), pods)))
    }

    /// Every pod everywhere.
    pub(crate) fn any_pod() -> Self {
        Self::pods_by(Selector::default(), Selector::default())
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

    /// Whether it names pods by what they are. Never true of selectors that go
    /// by address.
    pub(crate) fn names(&self, namespace: &Labels, pods: &Shape) -> bool {
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
    /// Whether it holds every address of its family.
    pub(crate) fn is_whole(&self) -> bool {
        self.cidr.prefix_len() == 0 && self.except.is_empty()
    }

    /// Whether an address lies in it.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip) && !self.except.iter().any(|e| e.contains(&ip))
    }
}

impl Peer {
    /// The port that it means on such pods: `None` if they don't declare it,
    /// `Some(None)` if it asks for none.
    pub(crate) fn number(&self, pods: &Shape) -> Option<Option<u16>> {
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
