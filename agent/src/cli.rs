//! Arguments as they are written; [`crate::settings`] resolves them.

mod api;
mod cni;
mod nodes;
mod policy;
mod uninstall;
mod values;
mod wait;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use api::{ApiArgs, ApiListener};
pub use cni::{CniArgs, CniOnTimeout};
pub use nodes::NodeArgs;
pub use policy::PolicyArgs;
pub use uninstall::UninstallArgs;
pub use values::{
    AddressArgs, AttachBy, LogFormat, Mode, PodCidr, SeenMark, Source, TunnelPort, UnknownPods,
};
pub use wait::{WaitArgs, WaitFor, WaitPolicyArgs};

/// A small firewall around every service of a Kubernetes cluster.
#[derive(Parser, Debug)]
#[command(
    name = "ringfence",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// The agent's Unix socket
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "/run/ringfence/agent.sock"
    )]
    pub socket: PathBuf,
    /// Where maps and links are pinned (on a bpffs)
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/ringfence"
    )]
    pub pin_dir: PathBuf,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Enforce policy on this node's pods
    Agent(Box<AgentArgs>),
    /// What the local agent, or those of other nodes, enforce, and whether all is well
    Status(StatusArgs),
    /// Return when something is in force
    Wait(WaitArgs),
    /// The pods of this node, or of others, and how each is guarded
    Endpoints(ListArgs),
    /// Drops by pair of services
    Drops(FollowArgs),
    /// Tracked connections
    Flows(ListArgs),
    /// Why FROM may or may not call TO, and the smallest change that would allow it
    ///
    /// FROM and TO are ns/pod, ns/service, `outside` or an IP; `pod:` and `svc:`
    /// in front say which is meant. Exits 1 if the call is denied.
    Explain(ExplainArgs),
    /// Who can reach whom, or with --diff what a change of manifests opens and closes
    ///
    /// Callers are rows, callees columns; one character a port: `.` allowed, `X`
    /// denied, and `~` where that holds for some pods of a workload, some addresses of
    /// a CIDR or one family of addresses only. What a staged policy would deny counts as
    /// allowed. A pod or workload to itself never counts as open.
    Matrix(MatrixArgs),
    /// Who may call SERVICE, on which ports, and through which label or policy
    ///
    /// SERVICE is ns/service or ns/pod; `svc:` and `pod:` in front say which is
    /// meant. One row a caller: its ports, whether its own egress allows them
    /// too, and the rule of the service that admits it. Callers that may no more
    /// than any address aren't listed; a pod itself and its node always may.
    Callers(CallersArgs),
    /// Stop enforcing: remove every program, map and pin, and the network plugin's entry
    Uninstall(UninstallArgs),
}

/// How a listing is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// `ringfence endpoints`, `flows`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Whose
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `ringfence drops`.
#[derive(Args, Debug)]
pub struct FollowArgs {
    /// Print denied and audited packets as they happen
    #[arg(long)]
    pub follow: bool,
    /// End when stdin does, so that nothing is left of it in a pod that it was run in
    #[arg(long, hide = true, requires = "follow")]
    pub until_stdin_closes: bool,
    /// Whose
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `ringfence status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Return when this pod's present policy is in force. The pod is on this node, or on
    /// the one that --node names
    #[arg(long, value_name = "NS/POD", conflicts_with = "all_nodes")]
    pub wait: Option<PodName>,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "wait")]
    pub timeout: u64,
    /// Whose
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `namespace/name` of a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.into(),
                    name: name.into(),
                })
            }
            _ => Err("a pod is written NAMESPACE/NAME".into()),
        }
    }
}

/// The cluster that a question is about.
#[derive(Args, Debug, Clone, Default)]
pub struct ClusterArgs {
    /// A folder or file of Kubernetes YAML or JSON, or - for stdin, instead of a cluster
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// The cluster's kubeconfig [default: KUBECONFIG, ~/.kube/config, or the
    /// service account of the pod that this runs in]
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
}

/// `ringfence explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The caller
    pub from: String,
    /// The callee
    pub to: String,
    /// PROTO/PORT, as in TCP/8080, or ICMP
    #[arg(value_name = "PROTO/PORT")]
    pub port: String,
    /// Whose policies
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How labels are read
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `ringfence matrix`.
#[derive(Args, Debug)]
pub struct MatrixArgs {
    /// Whose policies
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// PROTO/PORT, as in TCP/8080, or ICMP; repeat for more, up to 64
    #[arg(long, value_name = "PROTO/PORT", required = true)]
    pub port: Vec<String>,
    /// Only these callers: ns/pod, ns/service, ns, an IP or a CIDR; repeat for more
    #[arg(long, value_name = "FILTER")]
    pub from: Vec<String>,
    /// Only these callees, likewise
    #[arg(long, value_name = "FILTER")]
    pub to: Vec<String>,
    /// Addresses as a caller and a callee beside the pods; repeat for more. Only
    /// the pod's side is asked. A known pod's or node's address counts as that
    /// pod or node
    #[arg(long, value_name = "CIDR-OR-IP")]
    pub peer: Vec<String>,
    /// One row a pod, or one for all pods of a namespace/service [default: pod,
    /// with --diff workload]
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// List what changes from --manifests or the cluster (before) to this folder, file or - (after). What
    /// is there after only was allowed nothing before: all that it may call and
    /// all that may call it opens; what is gone closes likewise
    #[arg(long, value_name = "OTHER_PATH")]
    pub diff: Option<PathBuf>,
    /// Exit 1 if any call is allowed, or with --diff if any opens; 2 if there is nothing to judge
    #[arg(long)]
    pub fail_on_open: bool,
    /// How labels are read
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What a row of a matrix is.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// One pod.
    Pod,
    /// All pods of one namespace/service.
    Workload,
}

/// `ringfence callers`.
#[derive(Args, Debug)]
pub struct CallersArgs {
    /// ns/service or ns/pod
    pub service: String,
    /// Whose policies
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How labels are read
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// `ringfence agent`.
#[derive(Args, Debug)]
pub struct AgentArgs {
    /// Where policy comes from
    #[arg(
        long,
        value_enum,
        default_value = "kubernetes",
        conflicts_with = "manifests"
    )]
    pub source: Source,
    /// Read policy from this folder or file of Kubernetes YAML, and watch it
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// The cluster's kubeconfig [default: KUBECONFIG, ~/.kube/config, or the
    /// service account of the pod that this runs in]
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Drop what policy denies, or only count it
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,
    /// This node's name, as in the pods' spec.nodeName [default: NODE_NAME of the
    /// environment, else the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where the pods' network namespaces are found
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// Where libcni keeps what network plugins answered: it tells whose each device is,
    /// and which addresses a pod of this node has before the API server shows them
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    pub cni_cache: PathBuf,
    /// The network plugin
    #[command(flatten)]
    pub cni: CniArgs,
    /// Ask the container runtime as well, over this socket, as in
    /// /run/containerd/containerd.sock. Whoever may use it is as good as root
    #[arg(long, value_name = "SOCKET")]
    pub cri_socket: Option<PathBuf>,
    /// What becomes of a device that leads to a pod which neither the pod runtime nor the
    /// API server shows (yet): closed, or a device like any other. In mode audit what
    /// would be dropped there is counted
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub unknown_pods: UnknownPods,
    /// A namespace whose pods pass while the API server doesn't show them; repeat for
    /// more, or separate by commas
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub unknown_exempt: Vec<String>,
    /// Where /metrics is served; `none` for nowhere
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9435")]
    pub metrics_addr: String,
    /// Who may read /metrics: an IP, a CIDR, or NAMESPACE/SELECTOR for pods, as in
    /// monitoring/app=prometheus; repeat for more [default: everybody]
    ///
    /// A selector is conditions KEY=VALUE, KEY!=VALUE, KEY or !KEY with commas
    /// between them, or * for all pods of the namespace. It selects pods with a
    /// network of their own. A pod under quarantine is never served, nor is anybody
    /// by a link-local address.
    #[arg(long, value_name = "CLIENTS")]
    pub metrics_from: Vec<String>,
    /// Where probes find /livez, /readyz and /healthz; `none` for nowhere
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9434")]
    pub health_addr: String,
    /// The read-only API for programs
    #[command(flatten)]
    pub api: ApiArgs,
    /// How log lines on stderr look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// How labels are read
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Denied packets per second and pod that are reported one by one; counters
    /// are exact whatever this is
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub events_per_second: u32,
    /// Write Kubernetes Events on callers' pods about their dropped packets, summed
    /// up and a few a minute; needs leave to create events.events.k8s.io
    #[arg(long, conflicts_with = "manifests")]
    pub emit_events: bool,
    /// How long after a pod is first managed its open TCP connections are still
    /// recognised, and answers to what it has just asked over UDP, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub pickup: u64,
    /// How programs are attached to the pods' interfaces: by tcx links where the
    /// kernel has them (Linux 6.6 or newer), or as clsact filters everywhere
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    pub attach: AttachBy,
    /// A UDP port that some node of the cluster unpacks as a tunnel's, beside those of
    /// this node's own devices: no pod may send there, but to another pod. Repeat for
    /// more, or separate by commas
    #[arg(long, value_name = "UDP/PORT", value_delimiter = ',')]
    pub tunnel_port: Vec<TunnelPort>,
    /// The bit of packets' marks (`skb->mark`) with which the programs note that they saw
    /// a packet come in: what nobody saw reaches no pod. Choose another one where other
    /// software on the node uses this one; 0 switches the check off, and a pod with
    /// NET_ADMIN can then get around its policy
    #[arg(long, value_name = "BIT", default_value_t)]
    pub seen_mark: SeenMark,
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
