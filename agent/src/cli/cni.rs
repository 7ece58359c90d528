//! Flags of the network plugin `ringfence-cni`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use ringfence_cni::{Entry, OnTimeout, PLUGIN};

use crate::cni::Install;

/// How `ringfence agent` manages the node's chain of network plugins.
#[derive(Args, Debug, Clone, Default)]
pub struct CniArgs {
    /// The directory that the network plugin ringfence-cni shares with the agent, for example
    /// /var/lib/ringfence/cni: the plugin closes each pod's device before the pod has a process,
    /// and records which pod it belongs to
    #[arg(long, value_name = "DIR", conflicts_with = "manifests")]
    pub cni_state: Option<PathBuf>,
    /// Add ringfence-cni to the network that is configured here, for example /etc/cni/net.d, and
    /// keep it there. Nothing is written while no network is configured
    #[arg(long, value_name = "DIR", requires_all = ["cni_bin_dir", "cni_state"])]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the container runtime finds plugins, for example /opt/cni/bin
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary, to be copied there [default: ringfence-cni next to this binary]
    #[arg(long, value_name = "FILE", requires = "cni_conf_dir")]
    pub cni_plugin: Option<PathBuf>,
    /// How long a pod's start waits for its policy
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        requires = "cni_conf_dir"
    )]
    pub cni_timeout: u64,
    /// How a pod starts if its policy isn't in force by then: closed, or open until its policy is
    /// in force [default: deny]
    #[arg(long, value_enum, value_name = "WHAT", requires = "cni_conf_dir")]
    pub cni_on_timeout: Option<CniOnTimeout>,
    /// While no agent answers, report the network as unavailable, so that the node isn't ready
    /// (through CNI's STATUS, if the runtime calls it)
    #[arg(long, requires = "cni_conf_dir")]
    pub status_gates_node: bool,
}

/// How a pod starts if its policy isn't in force in time.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum CniOnTimeout {
    /// It starts closed.
    Deny,
    /// It starts open.
    Allow,
}

impl CniArgs {
    /// Returns what to install; nothing without `--cni-conf-dir`.
    ///
    /// # Errors
    /// If the plugin's binary can't be found, or a path isn't absolute: the runtime has another
    /// working directory.
    pub fn install(&self, socket: &Path) -> anyhow::Result<Option<Install>> {
        let (Some(conf_dir), Some(bin_dir), Some(state)) =
            (&self.cni_conf_dir, &self.cni_bin_dir, &self.cni_state)
        else {
            return Ok(None);
        };
        for (flag, path) in [("--cni-state", state.as_path()), ("--socket", socket)] {
            if !path.is_absolute() {
                let path = path.display();
                return Err(anyhow!(
                    "{flag} {path}: must be an absolute path, because the plugin uses it"
                ));
            }
        }
        let plugin = match &self.cni_plugin {
            Some(plugin) => plugin.clone(),
            None => beside_own().context("looking for the plugin's binary; give --cni-plugin")?,
        };
        Ok(Some(Install {
            conf_dir: conf_dir.clone(),
            bin_dir: bin_dir.clone(),
            plugin,
            entry: Entry {
                state_dir: state.clone(),
                socket: socket.to_owned(),
                timeout_seconds: self.cni_timeout,
                on_timeout: self.cni_on_timeout.map(|what| match what {
                    CniOnTimeout::Deny => OnTimeout::Deny,
                    CniOnTimeout::Allow => OnTimeout::Allow,
                }),
                status_gates_node: self.status_gates_node,
            },
        }))
    }
}

fn beside_own() -> std::io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(PLUGIN))
}
