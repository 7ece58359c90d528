//! Resolved arguments: checked against each other and against this machine.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use ringfence_policy::clients::Clients;
use ringfence_policy::config::Config;

use crate::cli::{
    AgentArgs, ApiListener, AttachBy, Global, LogFormat, Mode, PodCidr, PodName, PolicyArgs,
    TunnelPort, UnknownPods,
};
use crate::cni::Install;
use crate::datapath::Attach;
use crate::discover::Exempt;
use crate::failure::Failure;
use crate::kubernetes::Access;

/// The source of policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A folder or file of manifests.
    Manifests(PathBuf),
    /// The API server.
    Kubernetes(Access),
}

/// The agent's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where policy comes from.
    pub origin: Origin,
    /// Count denials without dropping.
    pub audit: bool,
    /// This node's name.
    pub node_name: String,
    /// Folder of network namespaces.
    pub netns_dir: PathBuf,
    /// Folder of the network plugins' cached results.
    pub cni_cache: PathBuf,
    /// Folder shared by the network plugin and the agent, if the plugin is installed.
    pub cni_state: Option<PathBuf>,
    /// How to keep the plugin in the node's chain of plugins, if requested.
    pub install: Option<Install>,
    /// The container runtime's socket, if it is to be queried.
    pub cri_socket: Option<PathBuf>,
    /// Which unknown pods' devices stay open.
    pub exempt: Exempt,
    /// Where metrics are served, if anywhere.
    pub metrics_addr: Option<SocketAddr>,
    /// Who may read metrics; everybody if empty.
    pub metrics_from: Vec<Clients>,
    /// Where probes are answered, if anywhere.
    pub health_addr: Option<SocketAddr>,
    /// Where programs are served and with which certificates, if anywhere.
    pub api: Option<ApiListener>,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Write Events about drops.
    pub emit_events: bool,
    /// How labels are read.
    pub config: Config,
    /// Events per second and endpoint.
    pub events_per_second: u32,
    /// Pick-up window after a first attach.
    pub pickup: Duration,
    /// How programs are attached.
    pub attach: Attach,
    /// The bit of a packet's mark that records that a hook saw it come in; 0 for none.
    pub seen_mark: u32,
    /// UDP ports of tunnels, besides those that the node shows.
    pub tunnel_ports: BTreeSet<u16>,
    /// The API's socket.
    pub socket: PathBuf,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
}

impl AgentArgs {
    /// Checks the arguments against each other and this machine.
    pub fn resolve(self, global: &Global) -> Result<Settings, Failure> {
        if self.manifests.as_deref() == Some("-".as_ref()) {
            let what = "--manifests -: the agent watches files; stdin is for offline commands";
            return Err(Failure::input(anyhow!(what)));
        }
        let origin = Origin::of(self.manifests, self.kubeconfig);
        let node_name = match self.node_name {
            Some(name) => name,
            None => default_name().map_err(Failure::fault)?,
        };
        pin_names(&global.pin_dir).map_err(Failure::input)?;
        let [metrics_addr, health_addr] =
            listeners(&self.metrics_addr, &self.health_addr).map_err(Failure::input)?;
        let api = self.api.listener().map_err(Failure::input)?;
        let shared = api.as_ref().filter(|api| {
            let others = [metrics_addr, health_addr];
            others.contains(&Some(api.address))
        });
        if let Some(ApiListener { address, .. }) = shared {
            return Err(Failure::input(anyhow!(
                "--api-addr {address}: metrics or probes are served there; use another"
            )));
        }
        let install = self.cni.install(&global.socket).map_err(Failure::input)?;
        Ok(Settings {
            origin,
            audit: self.mode == Mode::Audit,
            node_name,
            netns_dir: self.netns_dir,
            cni_cache: self.cni_cache,
            cni_state: self.cni.cni_state,
            install,
            cri_socket: self.cri_socket,
            exempt: Exempt {
                all: self.unknown_pods == UnknownPods::Allow,
                namespaces: self.unknown_exempt,
            },
            metrics_addr,
            metrics_from: metrics_from(&self.metrics_from).map_err(Failure::input)?,
            health_addr,
            api,
            log_format: self.log_format,
            emit_events: self.emit_events,
            config: self.policy.config(),
            events_per_second: self.events_per_second,
            pickup: Duration::from_secs(self.pickup),
            attach: match self.attach {
                AttachBy::Best => Attach::Best,
                AttachBy::Clsact => Attach::Clsact,
            },
            seen_mark: self.seen_mark.0,
            tunnel_ports: self
                .tunnel_port
                .iter()
                .map(|TunnelPort(port)| *port)
                .collect(),
            socket: global.socket.clone(),
            pin_dir: global.pin_dir.clone(),
        })
    }
}

impl Origin {
    /// Returns the folder as source if one is given, otherwise the API server.
    pub fn of(manifests: Option<PathBuf>, kubeconfig: Option<PathBuf>) -> Self {
        match manifests {
            Some(folder) => Self::Manifests(folder),
            None => Self::Kubernetes(Access { kubeconfig }),
        }
    }
}

impl PolicyArgs {
    /// Returns the compiler's configuration.
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        if let Some(prefix) = &self.label_prefix {
            config.service_labels[0] = format!("{prefix}/service");
            config.egress_prefix = format!("egress.{prefix}");
            config.egress_groups_prefix = format!("egress-groups.{prefix}");
            config.callers_prefix = format!("callers.{prefix}");
            config.label_prefix.clone_from(prefix);
        }
        if !self.service_label.is_empty() {
            config.service_labels.clone_from(&self.service_label);
        }
        let services = self.dns_service.iter();
        let services = services.map(|PodName { namespace, name }| format!("{namespace}/{name}"));
        config.dns_services = services.collect();
        config.dns_addresses.extend(&self.dns_address);
        config
            .node_addresses
            .clone_from(&self.addresses.node_address);
        let ranges = self.addresses.pod_cidrs.iter();
        config.pod_cidrs = ranges.map(|PodCidr(net)| *net).collect();
        config
    }
}

/// Parses the addresses of the metrics and of the probes.
fn listeners(metrics: &str, health: &str) -> anyhow::Result<[Option<SocketAddr>; 2]> {
    let both = [
        address("--metrics-addr", metrics)?,
        address("--health-addr", health)?,
    ];
    if both[0].is_some() && both[0] == both[1] {
        return Err(anyhow!(
            "--health-addr {health}: metrics are served there (--metrics-addr); a flood of \
             one must not affect the other, so use another"
        ));
    }
    Ok(both)
}

fn address(flag: &str, text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .with_context(|| format!("{flag} {text}: neither IP:PORT nor `none`"))
}

fn metrics_from(texts: &[String]) -> anyhow::Result<Vec<Clients>> {
    let parse = |text: &String| {
        let parsed = text.parse::<Clients>();
        parsed.with_context(|| format!("--metrics-from {text:?}"))
    };
    texts.iter().map(parse).collect()
}

/// Rejects pin directories with a dot in a name that has to be created: a bpffs refuses such names
/// (`bpf_lookup` of kernel/bpf/inode.c) with a misleading EPERM.
fn pin_names(pin_dir: &Path) -> anyhow::Result<()> {
    let existing = pin_dir.ancestors().find(|path| path.exists());
    let Some(existing) = existing.filter(|path| is_bpffs(path)) else {
        return Ok(());
    };
    match dotted(pin_dir, existing) {
        None => Ok(()),
        Some(name) => Err(anyhow!(
            "--pin-dir {}: a bpffs allows no dots in names; choose a name without one for {name:?}",
            pin_dir.display(),
        )),
    }
}

/// If it can't be determined, the datapath's own check of the pin directory reports the problem.
fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Returns the first name with a dot among those that have to be created.
fn dotted<'a>(pin_dir: &'a Path, existing: &Path) -> Option<&'a OsStr> {
    let rest = pin_dir.strip_prefix(existing).ok()?;
    rest.components().find_map(|component| match component {
        Component::Normal(name) if name.as_encoded_bytes().contains(&b'.') => Some(name),
        _ => None,
    })
}

/// Returns the node name from the downward API in a pod, otherwise the host's name.
fn default_name() -> anyhow::Result<String> {
    match std::env::var("NODE_NAME") {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => host_name(),
    }
}

/// Returns the name under which the kubelet registers a node by default.
fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("reading the host's name")?;
    let name = name
        .into_string()
        .map_err(|_| anyhow!("the host's name isn't UTF-8; give --node-name"))?;
    Ok(name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_dot_that_is_still_to_be_made_is_found() {
        let find = |pin_dir, existing| dotted(Path::new(pin_dir), Path::new(existing));
        let bpffs = "/sys/fs/bpf";
        assert_eq!(
            find("/sys/fs/bpf/a/ring.fence", bpffs),
            Some("ring.fence".as_ref())
        );
        assert_eq!(find("/sys/fs/bpf/ringfence", bpffs), None);
        assert_eq!(find("/sys/fs/bpf/a/../b", bpffs), None);
        assert_eq!(find("/mnt/a.b/bpf/ringfence", "/mnt/a.b/bpf"), None);
    }

    #[test]
    fn off_bpffs_dots_are_left_to_the_datapaths_own_check() {
        let dir = tempfile::tempdir().unwrap();
        assert!(pin_names(&dir.path().join("ring.fence")).is_ok());
    }
}
