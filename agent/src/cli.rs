//! Arguments as written; [`crate::settings`] resolves them.

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
    /// Options common to all commands.
    #[command(flatten)]
    pub global: Global,
    /// The subcommand to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Options common to all commands.
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
    /// Show what the local agent or other nodes' agents enforce, and whether they are healthy
    Status(StatusArgs),
    /// Wait until something is in force
    Wait(WaitArgs),
    /// List the pods of this node or of others, and how each is guarded
    Endpoints(ListArgs),
    /// Show drops by pair of services
    Drops(FollowArgs),
    /// List tracked connections
    Connections(ListArgs),
    /// Explain why FROM may or may not call TO, and the smallest change that would allow it
    ///
    /// FROM and TO are ns/pod, ns/service, `outside` or an IP. A `pod:` or `svc:` prefix picks one
    /// of the two. Exits 1 if the call is denied.
    Explain(ExplainArgs),
    /// Show who can reach whom, or with --diff what a change of manifests opens and closes
    ///
    /// Rows are callers, columns are callees, with one character per port: `.` allowed, `X` denied,
    /// and `~` if that is true only for some pods of a workload, some addresses of a CIDR, or one
    /// address family. A call that only staged policy would deny counts as allowed. A pod or
    /// workload calling itself never counts as open.
    Matrix(MatrixArgs),
    /// Show who may call SERVICE, on which ports, and through which label or policy
    ///
    /// SERVICE is ns/service or ns/pod. A `svc:` or `pod:` prefix picks one of the two. Prints one
    /// row per caller: its ports, whether its own egress allows them too, and the rule of the
    /// service that admits it. Callers that may do no more than any address aren't listed. A pod
    /// itself and its node are always admitted.
    Callers(CallersArgs),
    /// Stop enforcing: remove every program, map and pin, and the network plugin's entry
    Uninstall(UninstallArgs),
}

/// How a listing is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// A table for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Arguments of `ringfence endpoints` and `connections`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The agents to ask.
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `ringfence drops`.
#[derive(Args, Debug)]
pub struct FollowArgs {
    /// Print denied and audited packets as they happen
    #[arg(long)]
    pub follow: bool,
    /// Exit when stdin closes, so that nothing is left running when exec'd in a pod
    #[arg(long, hide = true, requires = "follow")]
    pub until_stdin_closes: bool,
    /// The agents to ask.
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `ringfence status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Wait until this pod's current policy is in force. The pod is on this node, or on the node
    /// given by --node
    #[arg(long, value_name = "NS/POD", conflicts_with = "all_nodes")]
    pub wait: Option<PodName>,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "wait")]
    pub timeout: u64,
    /// The agents to ask.
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// The `namespace/name` of a pod.
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
            _ => Err("expected NAMESPACE/NAME".into()),
        }
    }
}

/// The cluster that a command is about.
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

/// Arguments of `ringfence explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The caller
    pub from: String,
    /// The callee
    pub to: String,
    /// PROTO/PORT, for example TCP/8080, or ICMP
    #[arg(value_name = "PROTO/PORT")]
    pub port: String,
    /// The policies to read.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How labels are read.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `ringfence matrix`.
#[derive(Args, Debug)]
pub struct MatrixArgs {
    /// The policies to read.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// PROTO/PORT, for example TCP/8080, or ICMP; repeat for up to 64
    #[arg(long, value_name = "PROTO/PORT", required = true)]
    pub port: Vec<String>,
    /// Show only these callers: ns/pod, ns/service, ns, an IP or a CIDR; repeat for more
    #[arg(long, value_name = "FILTER")]
    pub from: Vec<String>,
    /// Show only these callees, in the same notation
    #[arg(long, value_name = "FILTER")]
    pub to: Vec<String>,
    /// Add addresses as caller and callee besides the pods; repeat for more. Only the pod's side is
    /// evaluated. The address of a known pod or node counts as that pod or node
    #[arg(long, value_name = "CIDR-OR-IP")]
    pub peer: Vec<String>,
    /// One row per pod, or one for all pods of a namespace/service [default: pod, with --diff
    /// workload]
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// List what changes from --manifests or the cluster (before) to this folder, file or -
    /// (after). A pod that exists only after counts as denied everything before, so every call that
    /// it may make or receive opens; the calls of a removed pod close likewise
    #[arg(long, value_name = "OTHER_PATH")]
    pub diff: Option<PathBuf>,
    /// Exit 1 if any call is allowed, or with --diff if any opens; exit 2 if there is nothing to
    /// judge
    #[arg(long)]
    pub fail_on_open: bool,
    /// How labels are read.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What a row of a matrix stands for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// One pod.
    Pod,
    /// All pods of one namespace/service.
    Workload,
}

/// Arguments of `ringfence callers`.
#[derive(Args, Debug)]
pub struct CallersArgs {
    /// ns/service or ns/pod
    pub service: String,
    /// The policies to read.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How labels are read.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `ringfence agent`.
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
    /// This node's name, as in the pods' spec.nodeName [default: NODE_NAME from the environment,
    /// otherwise the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The directory of the pods' network namespaces
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// Where libcni caches the results of network plugins: which pod each device belongs to, and
    /// which addresses a pod of this node has before the API server shows them
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    pub cni_cache: PathBuf,
    /// The network plugin.
    #[command(flatten)]
    pub cni: CniArgs,
    /// Also query the container runtime over this socket, for example
    /// /run/containerd/containerd.sock. Access to it is equivalent to root
    #[arg(long, value_name = "SOCKET")]
    pub cri_socket: Option<PathBuf>,
    /// What to do with a device that leads to a pod which neither the pod runtime nor the API
    /// server shows (yet): close it, or treat it like any other device. In audit mode, packets that
    /// would be dropped there are counted
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub unknown_pods: UnknownPods,
    /// A namespace whose pods' traffic passes while the API server doesn't show them; repeat for
    /// more, or separate by commas
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub unknown_exempt: Vec<String>,
    /// Where /metrics is served, or `none`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9435")]
    pub metrics_addr: String,
    /// Who may read /metrics: an IP, a CIDR, or NAMESPACE/SELECTOR for pods, for example
    /// monitoring/app=prometheus; repeat for more [default: everybody]
    ///
    /// A selector is a comma-separated list of conditions KEY=VALUE, KEY!=VALUE, KEY or !KEY, or *
    /// for all pods of the namespace. It selects pods with a network of their own. Pods under
    /// quarantine and clients with a link-local address are never served.
    #[arg(long, value_name = "CLIENTS")]
    pub metrics_from: Vec<String>,
    /// Where /livez, /readyz and /healthz are served, or `none`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9434")]
    pub health_addr: String,
    /// The read-only API for programs.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Format of log lines on stderr
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// How labels are read.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Denied packets per second and pod that are reported individually; counters are always exact
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub events_per_second: u32,
    /// Write Kubernetes Events about dropped packets on the callers' pods, aggregated and a few per
    /// minute; requires permission to create events.events.k8s.io
    #[arg(long, conflicts_with = "manifests")]
    pub emit_events: bool,
    /// How long after a pod is first managed its open TCP connections are still recognised, and
    /// replies to its recent UDP requests, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub pickup: u64,
    /// How programs are attached to the pods' interfaces: as tcx links if the kernel supports them
    /// (Linux 6.6 or newer), or always as clsact filters
    #[arg(long, value_enum, value_name = "WAY", default_value_t)]
    pub attach: AttachBy,
    /// A UDP port on which some node of the cluster terminates a tunnel, besides those of this
    /// node's own devices: pods may send there only to another pod. Repeat for more, or separate by
    /// commas
    #[arg(long, value_name = "UDP/PORT", value_delimiter = ',')]
    pub tunnel_port: Vec<TunnelPort>,
    /// The bit of packet marks (`skb->mark`) in which the programs record that they saw a packet
    /// come in; packets without it reach no pod. Choose another bit if other software on the node
    /// uses this one; 0 switches the check off, and a pod with NET_ADMIN can then bypass its policy
    #[arg(long, value_name = "BIT", default_value_t)]
    pub seen_mark: SeenMark,
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
