//! Detection of misspelt kinds in Kubernetes' own groups: an object skipped because of its kind
//! may be a policy that denies traffic.

use super::kind::{Kind, WorkloadKind, group as group_of};

/// Returns the kinds that policy reads, and their API versions.
fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    let kinds = Kind::ALL.map(|kind| (kind.name(), kind.api_version()));
    let workloads = WorkloadKind::ALL.map(|kind| (kind.name(), kind.api_version()));
    kinds.into_iter().chain(workloads)
}

/// Other kinds of the same groups (`kubectl api-resources` of Kubernetes 1.20 to 1.36).
const OTHERS: [(&str, &[&str]); 6] = [
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ResourceQuota",
            "Secret",
            "ServiceAccount",
        ],
    ),
    ("apps", &["ControllerRevision"]),
    ("batch", &[]),
    ("discovery.k8s.io", &[]),
    (
        "networking.k8s.io",
        &[
            "ClusterCIDR",
            "IPAddress",
            "Ingress",
            "IngressClass",
            "ServiceCIDR",
        ],
    ),
    (
        "policy.networking.k8s.io",
        &["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"],
    ),
];

/// One-word groups of Kubernetes' own that have or had kinds.
const ONE_WORD: [&str; 5] = ["apps", "autoscaling", "batch", "extensions", "policy"];

/// A field and what is wrong with it.
type Fault = (&'static str, String);

/// The assessment of a document's kind and apiVersion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// No fault found in either.
    Fine,
    /// The group is one of Kubernetes' own and, as far as this version knows, has no such kind.
    Unknown,
    /// A field with a mistake, and what is wrong with it.
    Wrong(&'static str, String),
}

impl Spelling {
    /// Checks a document's kind and apiVersion; the latter may be absent.
    pub fn of(kind: &str, api: Option<&str>) -> Self {
        let fault = match api {
            None => nearest(kind, |_| true).map(|(near, api)| misspelt(kind, near, api)),
            Some(api) => {
                let (group, version) = api.split_once('/').unwrap_or(("", api));
                match OTHERS.iter().find(|(own, _)| *own == group) {
                    Some((_, others)) if others.contains(&kind) => None,
                    Some(_) => match in_own(kind, api, (group, version)) {
                        Err(fault) => Some(fault),
                        Ok(true) => None,
                        Ok(false) => return Self::Unknown,
                    },
                    None => elsewhere(kind, api, group),
                }
            }
        };
        fault.map_or(Self::Fine, |(field, message)| Self::Wrong(field, message))
    }
}

fn misspelt(kind: &str, near: &str, api: &str) -> Fault {
    (
        "kind",
        format!("there is no {kind} in {api}; {near} is meant?"),
    )
}

fn misplaced(kind: &str, api: &str, expected: &str) -> Fault {
    (
        "apiVersion",
        format!("{kind} is of {expected}, not of {api:?}"),
    )
}

/// Reports whether a group that has kinds in use here contains this kind.
fn in_own(kind: &str, api: &str, (group, version): (&str, &str)) -> Result<bool, Fault> {
    let own = known().find(|(read, _)| *read == kind);
    match own {
        Some((_, expected)) if group_of(expected) != group => {
            return Err(misplaced(kind, api, expected));
        }
        Some((_, expected)) if !is_version(version) => {
            return Err(misplaced(kind, api, expected));
        }
        Some(_) => return Ok(true),
        None => {}
    }
    if let Some((near, _)) = nearest(kind, |api| group_of(api) == group) {
        return Err(misspelt(kind, near, api));
    }
    if let Some((near, expected)) = nearest(kind, |_| true) {
        return Err(misspelt(kind, near, expected));
    }
    // Ignoring a policy kind that isn't enforced would leave traffic open.
    let is_policy = kind.to_ascii_lowercase().contains("policy");
    if group == "policy.networking.k8s.io" || group == "networking.k8s.io" && is_policy {
        let message = format!("{kind} of {api} isn't known to this version, nor enforced");
        return Err(("kind", message));
    }
    Ok(false)
}

/// Returns the fault of a kind in any other group.
fn elsewhere(kind: &str, api: &str, group: &str) -> Option<Fault> {
    let is_like = |expected: &str| is_near(group, group_of(expected));
    if let Some((_, expected)) = known().find(|(read, _)| *read == kind) {
        // One-word groups and groups in Kubernetes' own domain are reserved for Kubernetes.
        let is_kubernetes = group.ends_with("k8s.io") && !group.ends_with("x-k8s.io");
        let is_word = !group.contains('.') && !ONE_WORD.contains(&group);
        let is_meant = is_like(expected) || is_kubernetes || is_word;
        return is_meant.then(|| misplaced(kind, api, expected));
    }
    let (near, expected) = nearest(kind, is_like)?;
    Some(misspelt(kind, near, expected))
}

fn is_version(version: &str) -> bool {
    let Some(rest) = version.strip_prefix('v') else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = ["alpha", "beta"]
        .into_iter()
        .find_map(|word| rest.split_once(word));
    match parts {
        Some((major, minor)) => digits(major) && digits(minor),
        None => digits(rest),
    }
}

/// Returns the known kind in the matching groups that an unknown kind resembles most.
fn nearest(kind: &str, of: impl Fn(&str) -> bool) -> Option<(&'static str, &'static str)> {
    let read = known().filter(|(_, api)| of(api));
    let near = read.filter(|(read, _)| *read != kind && is_near(kind, read));
    let known = known().any(|(read, _)| read == kind);
    let best = near.min_by_key(|(read, _)| distance(kind, read));
    best.filter(|_| !known)
}

/// Reports whether a word differs from another by only a few letters.
fn is_near(word: &str, meant: &str) -> bool {
    let most = match meant.len() {
        0 => return false,
        1..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    word.len().abs_diff(meant.len()) <= most && distance(word, meant) <= most
}

/// Returns the number of letters that are missing, added, replaced or swapped with their
/// neighbour, ignoring case.
fn distance(one: &str, other: &str) -> usize {
    let lower = |text: &str| text.to_lowercase().chars().collect::<Vec<char>>();
    let (one, other) = (lower(one), lower(other));
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut best = (rows[i][j + 1] + 1).min(row[j] + 1);
            best = best.min(rows[i][j] + usize::from(a != b));
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: &str, api: &str) -> Option<&'static str> {
        let api = Some(api).filter(|api| !api.is_empty());
        match Spelling::of(kind, api) {
            Spelling::Wrong(field, _) => Some(field),
            Spelling::Unknown => Some("unknown"),
            Spelling::Fine => None,
        }
    }

    #[test]
    fn a_misspelt_kind_names_the_one_that_is_meant() {
        for (kind, api) in [
            ("NetworkPolcy", "networking.k8s.io/v1"),
            ("NetworkPolicies", "networking.k8s.io/v1"),
            ("networkpolicy", "networking.k8s.io/v1"),
            ("NetworkPoilcy", "networking.k8s.io/v1"),
            ("NetPolicy", "networking.k8s.io/v1"),
            ("NetworkPolcy", ""),
            ("NetworkPolcy", "networkng.k8s.io/v1"),
            ("NetworkPolcy", "v1"),
            ("ClusterNetworkPolcy", "policy.networking.k8s.io/v1alpha2"),
            ("ClusterEgressPolicy", "policy.networking.k8s.io/v1alpha3"),
            ("Pods", "v1"),
            ("Deploymnet", "apps/v1"),
            ("EndpointSlices", "discovery.k8s.io/v1"),
            ("NameSpace", "v1"),
        ] {
            assert_eq!(field(kind, api), Some("kind"), "{kind} of {api}");
        }
        let found = Spelling::of("NetworkPolcy", Some("networking.k8s.io/v1"));
        let message = "there is no NetworkPolcy in networking.k8s.io/v1; NetworkPolicy is meant?";
        assert_eq!(found, Spelling::Wrong("kind", message.into()));
    }

    #[test]
    fn a_misspelt_group_or_version_names_the_right_one() {
        for (kind, api) in [
            ("NetworkPolicy", "networkin.k8s.io/v1"),
            ("NetworkPolicy", "networking.k8s.io"),
            ("NetworkPolicy", "network.k8s.io/v1"),
            ("NetworkPolicy", "networking.k8s/v1"),
            ("NetworkPolicy", "networking/v1"),
            ("NetworkPolicy", "v1"),
            ("NetworkPolicy", "apps/v1"),
            ("ClusterNetworkPolicy", "networking.k8s.io/v1"),
            ("ClusterNetworkPolicy", "policy.networking.k8s/v1alpha2"),
            ("Pod", "core/v1"),
            ("Pod", "1"),
            ("Pod", "apps/v1"),
            ("Deployment", "app/v1"),
            ("Deployment", "v1"),
            ("Deployment", "apps"),
            ("Deployment", "apps/1"),
            ("EndpointSlice", "v1"),
        ] {
            assert_eq!(field(kind, api), Some("apiVersion"), "{kind} of {api}");
        }
    }

    #[test]
    fn kinds_of_others_and_other_kinds_are_left_alone() {
        for (kind, api) in [
            ("NetworkPolicy", "projectcalico.org/v3"),
            ("NetworkPolicy", "crd.projectcalico.org/v1"),
            ("ClusterNetworkPolicy", "crd.antrea.io/v1beta1"),
            ("CiliumNetworkPolicy", "cilium.io/v2"),
            ("Service", "serving.knative.dev/v1"),
            ("StatefulSet", "apps.kruise.io/v1beta1"),
            ("DaemonSet", "extensions/v1beta1"),
            ("Rollout", "argoproj.io/v1alpha1"),
            ("Ingress", "networking.k8s.io/v1"),
            ("Secret", "v1"),
            ("ConfigMap", "v1"),
            ("Endpoints", "v1"),
            ("PodTemplate", "v1"),
            ("ServiceAccount", "v1"),
            ("ControllerRevision", "apps/v1"),
            ("NetworkPolicy", ""),
            ("ConfigMap", ""),
            ("Role", "rbac.authorization.k8s.io/v1"),
            ("PodDisruptionBudget", "policy/v1"),
            ("PodMetrics", "metrics.k8s.io/v1beta1"),
            ("Gateway", "gateway.networking.k8s.io/v1"),
            ("Job", "batch/v1beta1"),
        ] {
            assert_eq!(field(kind, api), None, "{kind} of {api}");
        }
        assert_eq!(field("NetPol", "networking.k8s.io/v1"), Some("unknown"));
    }
}
