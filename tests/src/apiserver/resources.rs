//! The kinds that there are, and where each is in the API.

/// One kind of object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    /// `v1`, or `GROUP/VERSION`.
    pub(super) api_version: &'static str,
    pub(super) namespaced: bool,
}

const fn namespaced(
    kind: &'static str,
    plural: &'static str,
    api_version: &'static str,
) -> Resource {
    Resource {
        kind,
        plural,
        api_version,
        namespaced: true,
    }
}

const fn cluster_wide(
    kind: &'static str,
    plural: &'static str,
    api_version: &'static str,
) -> Resource {
    Resource {
        kind,
        plural,
        api_version,
        namespaced: false,
    }
}

/// All of them.
pub(super) const RESOURCES: &[Resource] = &[
    namespaced("Pod", "pods", "v1"),
    namespaced("Service", "services", "v1"),
    cluster_wide("Namespace", "namespaces", "v1"),
    cluster_wide("Node", "nodes", "v1"),
    namespaced("EndpointSlice", "endpointslices", "discovery.k8s.io/v1"),
    namespaced("NetworkPolicy", "networkpolicies", "networking.k8s.io/v1"),
    cluster_wide(
        "ClusterNetworkPolicy",
        CLUSTER_POLICIES,
        "policy.networking.k8s.io/v1alpha2",
    ),
    namespaced("Event", "events", "events.k8s.io/v1"),
];

/// The one that a server may be without.
pub(super) const CLUSTER_POLICIES: &str = "clusternetworkpolicies";

/// By its plural.
pub(super) fn named(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.plural == plural)
}

/// By its kind and apiVersion.
pub(super) fn of_kind(kind: &str, api_version: &str) -> Option<&'static Resource> {
    let mut all = RESOURCES.iter();
    all.find(|r| r.kind == kind && r.api_version == api_version)
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'p> {
    pub(super) resource: &'static Resource,
    pub(super) namespace: Option<&'p str>,
    pub(super) name: Option<&'p str>,
}

impl Resource {
    /// As `kubectl api-resources` has it with its group.
    pub(super) fn full_name(&self) -> String {
        match self.api_version.split_once('/') {
            None => self.plural.to_owned(),
            Some((group, _)) => format!("{}.{group}", self.plural),
        }
    }

    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub(super) fn root(&self) -> String {
        let folder = if self.api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        format!("/{folder}/{}", self.api_version)
    }
}

/// Reads `ROOT[/namespaces/NS]/PLURAL[/NAME]`.
pub(super) fn target(path: &str) -> Option<Target<'_>> {
    RESOURCES.iter().find_map(|resource| {
        let rest = path.strip_prefix(&resource.root())?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        let (namespace, parts) = match parts.as_slice() {
            ["namespaces", namespace, rest @ ..] if resource.namespaced => (Some(*namespace), rest),
            all => (None, all),
        };
        let name = match parts {
            [plural] if *plural == resource.plural => None,
            [plural, name] if *plural == resource.plural => Some(*name),
            _ => return None,
        };
        Some(Target {
            resource,
            namespace,
            name,
        })
    })
}

/// Reads `/api/v1/namespaces/NS/pods/NAME/exec`.
pub(super) fn exec(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/api/v1/namespaces/")?;
    let [namespace, "pods", pod, "exec"] = rest.split('/').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some((namespace, pod))
}
