//! How labels and addresses are read.

use std::net::IpAddr;

use clap::Args;

use super::{AddressArgs, PodName};

/// How labels and addresses are read: the same for the agent, explain, matrix and callers.
#[derive(Args, Debug, Clone, Default)]
pub struct PolicyArgs {
    /// A label that names a pod's service, in order of preference; repeat for more. Replaces the
    /// default ringfence.dev/service, app.kubernetes.io/name, app
    #[arg(long, value_name = "KEY")]
    pub service_label: Vec<String>,
    /// The domain of Ringfence's labels and annotations [default: ringfence.dev]
    #[arg(long, value_name = "DOMAIN")]
    pub label_prefix: Option<String>,
    /// A Service that provides cluster DNS; repeat for more [default: kube-system/kube-dns, and
    /// other Services of kube-system with the label k8s-app: kube-dns]
    #[arg(long, value_name = "NS/SERVICE")]
    pub dns_service: Vec<PodName>,
    /// An address at which a per-node cache answers for cluster DNS, besides NodeLocal DNSCache's
    /// 169.254.20.10; repeat for more
    #[arg(long, value_name = "IP")]
    pub dns_address: Vec<IpAddr>,
    /// Addresses that no object states.
    #[command(flatten)]
    pub addresses: AddressArgs,
}
