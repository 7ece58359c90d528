//! The few messages of the Container Runtime Interface that are read or sent, with the fields that
//! matter (`kubernetes/cri-api`, `pkg/apis/runtime/v1/api.proto`). They are defined by hand, so
//! that no build needs a protocol buffers compiler.

use std::collections::HashMap;

use prost::Message;

/// `PodSandboxState.SANDBOX_READY`.
pub const READY: i32 = 0;
/// `NamespaceMode.NODE`.
pub const ON_NODE: i32 = 2;

/// `ListPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ListRequest {
    /// Which sandboxes to list.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<Filter>,
}

/// `PodSandboxFilter`.
#[derive(Clone, PartialEq, Message)]
pub struct Filter {
    /// The state that sandboxes must be in.
    #[prost(message, optional, tag = "2")]
    pub state: Option<StateValue>,
}

/// `PodSandboxStateValue`.
#[derive(Clone, PartialEq, Message)]
pub struct StateValue {
    /// [`READY`], or another state.
    #[prost(int32, tag = "1")]
    pub state: i32,
}

/// `ListPodSandboxResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ListResponse {
    /// The sandboxes.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Item>,
}

/// `PodSandbox`.
#[derive(Clone, PartialEq, Message)]
pub struct Item {
    /// Id of the sandbox.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The pod it belongs to.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<Metadata>,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
}

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The pod's UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The pod's namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// `PodSandboxStatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {
    /// Id of the sandbox.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whether to include the runtime's additional information.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// `PodSandboxStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// The status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<SandboxStatus>,
    /// The runtime's additional information: `info` is JSON in containerd and CRI-O.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// `PodSandboxStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxStatus {
    /// Addresses of the sandbox.
    #[prost(message, optional, tag = "5")]
    pub network: Option<NetworkStatus>,
    /// Namespaces of the sandbox.
    #[prost(message, optional, tag = "6")]
    pub linux: Option<LinuxStatus>,
}

/// `PodSandboxNetworkStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct NetworkStatus {
    /// The first address.
    #[prost(string, tag = "1")]
    pub ip: String,
    /// The others.
    #[prost(message, repeated, tag = "2")]
    pub additional_ips: Vec<PodIp>,
}

/// `PodIP`.
#[derive(Clone, PartialEq, Message)]
pub struct PodIp {
    /// An address.
    #[prost(string, tag = "1")]
    pub ip: String,
}

/// `LinuxPodSandboxStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxStatus {
    /// Namespaces of the sandbox.
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<Namespaces>,
}

/// `Namespace`.
#[derive(Clone, PartialEq, Message)]
pub struct Namespaces {
    /// How the namespaces are shared.
    #[prost(message, optional, tag = "2")]
    pub options: Option<NamespaceOptions>,
}

/// `NamespaceOption`.
#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOptions {
    /// [`ON_NODE`] for the host network.
    #[prost(int32, tag = "1")]
    pub network: i32,
}
