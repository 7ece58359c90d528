//! Values of flags that are more than a string or a number.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use ringfence_ebpf::packet::protocol;
use ringfence_policy::config::can_be_pods;
use ringfence_policy::ports::PortSpec;

use crate::datapath::SEEN_MARK;

/// One bit of a packet's mark, such as `0x1000`, or 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenMark(pub u32);

impl Default for SeenMark {
    fn default() -> Self {
        Self(SEEN_MARK)
    }
}

impl fmt::Display for SeenMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for SeenMark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match number {
            Ok(bit) if bit.count_ones() <= 1 => Ok(Self(bit)),
            _ => Err("must be a single bit, for example 0x1000, or 0".to_owned()),
        }
    }
}

/// Addresses that no object states.
#[derive(Args, Debug, Clone, Default)]
pub struct AddressArgs {
    /// An address of a node besides those in its status; repeat for more
    #[arg(long, value_name = "IP")]
    pub node_address: Vec<IpAddr>,
    /// The cluster's pod ranges, in which an unknown address never counts as outside the cluster;
    /// repeat for more, or separate by commas [default: all Nodes' podCIDRs]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub pod_cidrs: Vec<PodCidr>,
}

/// A block of pod addresses, such as `10.244.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodCidr(pub IpNet);

impl FromStr for PodCidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<IpNet>() {
            Ok(net) if can_be_pods(&net) => Ok(Self(net.trunc())),
            Ok(_) => Err("too large for a pod range: at most IPv4 /8, IPv6 /16".to_owned()),
            Err(_) => Err("not a CIDR, for example 10.244.0.0/16".to_owned()),
        }
    }
}

/// A UDP port, such as `UDP/8473`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelPort(pub u16);

impl FromStr for TunnelPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spec: Result<PortSpec, _> = text.parse();
        match spec {
            Ok(spec) if spec.protocol == protocol::UDP => Ok(Self(spec.port)),
            _ => Err("neither UDP/PORT nor a list of them".to_owned()),
        }
    }
}

/// Where policy comes from.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The cluster's API server.
    Kubernetes,
}

/// What a denial does to a packet.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The packet is dropped.
    #[default]
    Enforce,
    /// The packet passes and is counted.
    Audit,
}

/// How programs are attached.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachBy {
    /// tcx links if the kernel has them (Linux 6.6), otherwise clsact filters.
    #[default]
    Best,
    /// clsact filters.
    Clsact,
}

/// The format of log lines.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How devices that lead to unknown pods are treated.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownPods {
    /// Nothing passes.
    #[default]
    Deny,
    /// They are treated like any other device.
    Allow,
}
