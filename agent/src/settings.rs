//! Arguments resolved: checked against each other and against this machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use ringfence_policy::config::Config;

use crate::cli::{AgentArgs, Global, LogFormat, Mode, PodName, PolicyArgs};
use crate::failure::Failure;

/// What the agent runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of manifests.
    pub manifests: PathBuf,
    /// Count denials without dropping.
    pub audit: bool,
    /// This node's name.
    pub node_name: String,
    /// Folder of network namespaces.
    pub netns_dir: PathBuf,
    /// Where metrics are served; nowhere if none.
    pub metrics_addr: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How labels are read.
    pub config: Config,
    /// Events per second and endpoint.
    pub events_per_second: u32,
    /// Pick-up window of a first attach.
    pub pickup: Duration,
    /// The API's socket.
    pub socket: PathBuf,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
}

impl AgentArgs {
    /// Checks the arguments against each other and this machine.
    pub fn resolve(self, global: &Global) -> Result<Settings, Failure> {
        let manifests = self.manifests.ok_or_else(|| {
            Failure::input(anyhow!(
                "--source kubernetes: this version reads manifests only; give --manifests DIR"
            ))
        })?;
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name().map_err(Failure::fault)?,
        };
        Ok(Settings {
            manifests,
            audit: self.mode == Mode::Audit,
            node_name,
            netns_dir: self.netns_dir,
            metrics_addr: metrics_addr(&self.metrics_addr).map_err(Failure::input)?,
            log_format: self.log_format,
            config: self.policy.config(),
            events_per_second: self.events_per_second,
            pickup: Duration::from_secs(self.pickup),
            socket: global.socket.clone(),
            pin_dir: global.pin_dir.clone(),
        })
    }
}

impl PolicyArgs {
    /// The compiler's configuration.
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
        if let Some(PodName { namespace, name }) = &self.dns_service {
            config.dns_service = format!("{namespace}/{name}");
        }
        config.node_addresses.clone_from(&self.node_address);
        config
    }
}

fn metrics_addr(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .with_context(|| format!("--metrics-addr {text}: neither IP:PORT nor `none`"))
}

/// What the kubelet registers a node as, unless told otherwise.
fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("reading the host's name")?;
    let name = name
        .into_string()
        .map_err(|_| anyhow!("the host's name isn't UTF-8; give --node-name"))?;
    Ok(name.to_lowercase())
}
