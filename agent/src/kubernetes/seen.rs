//! One object as the API server sent it.
//!
//! The watcher deserializes into this type rather than one of Kubernetes' own: it keeps the text as
//! received and accepts any content, so that one malformed object breaks no list and no watch.
//! [`Seen::what`] interprets it for policy.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use ringfence_policy::config::Config;
use ringfence_policy::model::{
    Closed, LabelSelector, Meta, NetworkPolicy, NetworkPolicySpec, Object, Pod, PodSpec, PodStatus,
    PolicyType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Kind;
use super::inbox::What;

/// An object's text, and the metadata that watching needs.
#[derive(Clone, Debug)]
pub struct Seen {
    meta: ObjectMeta,
    json: Box<RawValue>,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    resource_version: String,
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let meta = match serde_json::from_str::<Head>(json.get()) {
            Ok(Head { metadata }) => ObjectMeta {
                name: Some(metadata.name),
                namespace: metadata.namespace,
                resource_version: Some(metadata.resource_version),
                ..ObjectMeta::default()
            },
            Err(_) => odd_meta(json.get()),
        };
        Ok(Self { meta, json })
    }
}

/// Reads what can be read of malformed metadata.
fn odd_meta(json: &str) -> ObjectMeta {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        resource_version: text("resourceVersion"),
        ..ObjectMeta::default()
    }
}

impl Resource for Seen {
    type DynamicType = Kind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        kind.name().into()
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        kind.group().into()
    }

    fn version(kind: &Kind) -> Cow<'_, str> {
        kind.version().into()
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        kind.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl Seen {
    /// Returns the namespace, or an empty string, and the name.
    pub fn key(&self) -> (&str, &str) {
        let namespace = self.meta.namespace.as_deref();
        let name = self.meta.name.as_deref();
        (namespace.unwrap_or_default(), name.unwrap_or_default())
    }

    /// Returns the resource version, if it is a number, as those of Kubernetes itself are.
    pub fn version(&self) -> Option<u64> {
        self.meta.resource_version.as_deref()?.parse().ok()
    }

    /// Interprets the object for policy.
    pub fn what(&self, kind: Kind, config: &Config) -> What {
        let mut error = match Object::from_json(kind, self.json.get()) {
            Ok(object) => return What::Object(object.into()),
            Err(error) => Box::new(error),
        };
        let (namespace, name) = self.key();
        error.namespace = namespace.to_owned();
        error.name = name.to_owned();
        if kind == Kind::Namespace {
            error.closed = Some(Box::new(closed_namespace(name)));
        }
        let pod = (kind == Kind::Pod).then(|| self.closed_pod(config).into());
        What::Invalid(error, pod)
    }

    /// Returns what can be read of a pod that doesn't parse, under quarantine: the malformed part
    /// may be its labels, which decide who may call it.
    fn closed_pod(&self, config: &Config) -> Pod {
        let value: Value = serde_json::from_str(self.json.get()).unwrap_or_default();
        let (meta, status) = (&value["metadata"], &value["status"]);
        let (namespace, name) = self.key();
        let mut labels: BTreeMap<String, String> = read(&meta["labels"]).unwrap_or_default();
        labels.insert(format!("{}/quarantine", config.label_prefix), "true".into());
        let mut pod = Pod {
            metadata: Meta {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                uid: read(&meta["uid"]).unwrap_or_default(),
                labels,
                ..Meta::default()
            },
            spec: PodSpec {
                node_name: read(&value["spec"]["nodeName"]),
                host_network: read(&value["spec"]["hostNetwork"]).unwrap_or_default(),
                ..PodSpec::default()
            },
            status: PodStatus {
                phase: read(&status["phase"]).unwrap_or_default(),
                ..PodStatus::default()
            },
            stand_in: None,
        };
        let listed = status["podIPs"].as_array().into_iter().flatten();
        let shown = listed
            .map(|one| &one["ip"])
            .chain([&status["podIP"]])
            .filter_map(read::<IpAddr>);
        for ip in shown {
            let json = serde_json::json!({ "ip": ip });
            pod.status.pod_ips.extend(read(&json));
        }
        pod
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// The name of the closing policy, which no real policy can have.
pub const CLOSED_NAMESPACE: &str = "(Namespace that doesn't parse)";

/// Returns the policy that replaces a Namespace whose labels can't be read: all of its pods are
/// isolated, since the labels may specify any mode.
fn closed_namespace(name: &str) -> Closed {
    Closed::Namespaced(NetworkPolicy {
        metadata: Meta {
            name: CLOSED_NAMESPACE.into(),
            namespace: name.to_owned(),
            ..Meta::default()
        },
        spec: NetworkPolicySpec {
            pod_selector: LabelSelector::default(),
            policy_types: vec![PolicyType::Ingress, PolicyType::Egress],
            ..NetworkPolicySpec::default()
        },
    })
}
