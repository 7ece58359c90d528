//! Lookup of pods and addresses by the names that people write.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    index::{Index, PodEntry, groups::PodId, pods::PodTraits},
    model::Service,
    snapshot::Snapshot,
};

/// What is wrong with a name that a person wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text doesn't have the form of a name.
    #[error("{text:?} is none of {expected}")]
    Malformed {
        /// As written.
        text: String,
        /// The accepted forms.
        expected: &'static str,
    },
    /// Nothing has that name.
    #[error("no {what} {name} with live pods is known")]
    Unknown {
        /// `pod`, `service`, `pod or service` or `namespace`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The name is a pod's and also that of a service of other pods.
    #[error("{0} is a pod and a service: write pod:{0} or svc:{0}")]
    Ambiguous(String),
    /// A pod in its node's network namespace has no firewall of its own.
    #[error("{0} is in its node's network: ask for the node's address instead")]
    HostNetwork(String),
    /// An IPv4 address in IPv6 form, which no packet on the wire carries.
    #[error("{0} is an IPv4 address in IPv6's form: write it as IPv4")]
    Mapped(String),
}

/// A name or a block of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// All pods of a namespace.
    Namespace(String),
    Pods(PodsName),
    /// Addresses, and their text as written.
    Addresses(IpNet, String),
}

/// `ns/pod` or `ns/service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodsName {
    what: &'static str,
    namespace: String,
    short: String,
}

const POD: &str = "pod";
const SERVICE: &str = "service";

impl Name {
    /// Parses `ns/pod`, `ns/service`, `ns`, `ns/`, an address or a CIDR.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(net) = addresses(text)? {
            return Ok(Self::Addresses(net, text.to_owned()));
        }
        let namespace = text.strip_suffix('/').unwrap_or(text);
        if !namespace.is_empty() && !namespace.contains(['/', ':']) {
            return Ok(Self::Namespace(namespace.to_owned()));
        }
        let expected = "ns/pod, ns/service, ns, an address and a CIDR";
        PodsName::parse(text, expected).map(Self::Pods)
    }

    /// Returns the positions in the snapshot of the pods that the name matches.
    pub(crate) fn pods(&self, snapshot: &Snapshot) -> Result<Vec<usize>, NameError> {
        match self {
            Self::Namespace(name) => {
                let found = select(&snapshot.index, |p| *p.traits.namespace == **name);
                let unknown = || NameError::Unknown {
                    what: "namespace",
                    name: name.clone(),
                };
                let found = (!found.is_empty()).then_some(found);
                Ok(snapshot.places(&found.ok_or_else(unknown)?))
            }
            Self::Pods(name) => Ok(snapshot.places(&name.pods(&snapshot.index)?)),
            Self::Addresses(..) => Ok(Vec::new()),
        }
    }
}

/// Parses an address or a CIDR; returns `None` if the text is neither.
pub(crate) fn addresses(text: &str) -> Result<Option<IpNet>, NameError> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    let Ok(net) = one.or_else(|_| text.parse::<IpNet>()) else {
        return Ok(None);
    };
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && v6.network().to_ipv4_mapped().is_some()
    {
        return Err(NameError::Mapped(text.to_owned()));
    }
    Ok(Some(net.trunc()))
}

impl PodsName {
    /// Parses `ns/pod` or `ns/service`; a leading `pod:` or `svc:` restricts it to one of the
    /// two.
    pub(crate) fn parse(text: &str, expected: &'static str) -> Result<Self, NameError> {
        let (what, name) = match text.split_once(':') {
            Some(("pod", name)) => (POD, name),
            Some(("svc", name)) => (SERVICE, name),
            _ => ("pod or service", text),
        };
        match name.split_once('/') {
            Some((namespace, short))
                if !namespace.is_empty() && !short.is_empty() && !short.contains('/') =>
            {
                Ok(Self {
                    what,
                    namespace: namespace.to_owned(),
                    short: short.to_owned(),
                })
            }
            _ => Err(NameError::Malformed {
                text: text.to_owned(),
                expected,
            }),
        }
    }

    /// Returns the pods with that name in key order; never an empty list.
    pub(crate) fn pods(&self, index: &Index) -> Result<Vec<PodId>, NameError> {
        let here = |p: &PodEntry| *p.traits.namespace == *self.namespace;
        let mut pods = Vec::new();
        if self.what != SERVICE {
            pods = select(index, |p| here(p) && *p.name == *self.short);
        }
        let mut behind = Vec::new();
        if self.what != POD {
            behind = select(index, |p| here(p) && *p.traits.service == *self.short);
            if behind.is_empty() {
                behind = self.behind_object(index);
            }
        }
        let name = || self.to_string();
        let apart = behind.iter().any(|p| !pods.contains(p));
        match (pods.is_empty(), behind.is_empty()) {
            (false, false) if apart => Err(NameError::Ambiguous(name())),
            (false, _) => Ok(pods),
            (true, false) => Ok(behind),
            (true, true) if self.what != SERVICE && self.on_host(index) => {
                Err(NameError::HostNetwork(name()))
            }
            (true, true) => Err(NameError::Unknown {
                what: self.what,
                name: name(),
            }),
        }
    }

    /// Returns the pods behind a Service object, for use when no label names a service this way.
    fn behind_object(&self, index: &Index) -> Vec<PodId> {
        let key = (self.namespace.clone(), self.short.clone());
        let object = index.services.get(&key);
        object.map_or_else(Vec::new, |object| select(index, |p| selects(object, p)))
    }

    fn on_host(&self, index: &Index) -> bool {
        let pod = index.pod(&self.namespace, &self.short);
        pod.is_some_and(PodEntry::host_network)
    }
}

/// Reports whether a pod is behind a Service. A Service without a selector selects no pods.
pub(crate) fn selects(service: &Service, pod: &PodEntry) -> bool {
    is_behind(service, &pod.traits)
}

/// Does the same as [`selects`] for a pod's traits.
pub(crate) fn is_behind(service: &Service, pod: &PodTraits) -> bool {
    let has = |(k, v): (&String, &String)| pod.labels.get(k).is_some_and(|l| **l == **v);
    let selector = &service.spec.selector;
    *pod.namespace == *service.metadata.namespace
        && !selector.is_empty()
        && selector.iter().all(has)
}

/// Returns the matching live pods in key order.
pub(crate) fn select(index: &Index, wanted: impl Fn(&PodEntry) -> bool) -> Vec<PodId> {
    let wanted = index.live().filter(|(_, pod)| wanted(pod));
    let mut pods: Vec<_> = wanted.map(|(id, pod)| (pod.key(), id)).collect();
    pods.sort();
    pods.into_iter().map(|(_, id)| id).collect()
}

impl fmt::Display for PodsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.short)
    }
}
