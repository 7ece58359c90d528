//! Flags about the network plugin `ringfence-cni`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use ringfence_cni::{Entry, OnTimeout, PLUGIN};

use crate::cni::Install;

/// What `ringfence agent` does about the node's chain of network plugins.
#[derive(Args, Debug, Clone, Default)]
pub struct CniArgs {
    /// Where the network plugin ringfence-cni and the agent leave word for each other,
    /// as in /var/lib/ringfence/cni: it closes each pod's device before the pod has a
    /// process, and records whose it is
    #[arg(long, value_name = "DIR", conflicts_with = "manifests")]
    pub cni_state: Option<PathBuf>,
    /// Put ringfence-cni into the network that is configured here, as in /etc/cni/net.d,
    /// and keep it there. Nothing is written while none is
    #[arg(long, value_name = "DIR", requires_all = ["cni_bin_dir", "cni_state"])]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the container runtime finds plugins, as in /opt/cni/bin
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The plugin's binary, to be copied there [default: ringfence-cni beside this one]
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
    /// What becomes of a pod whose policy isn't in force then: it starts closed, or open
    /// until its policy is in force [default: deny]
    #[arg(long, value_enum, value_name = "WHAT", requires = "cni_conf_dir")]
    pub cni_on_timeout: Option<CniOnTimeout>,
    /// While no agent answers, the network isn't available, so that the node isn't ready
    /// (by CNI's STATUS, where the runtime asks for it)
    #[arg(long, requires = "cni_conf_dir")]
    pub status_gates_node: bool,
}

/// What becomes of a pod whose policy isn't in force in time.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum CniOnTimeout {
    /// It starts closed.
    Deny,
    /// It starts open.
    Allow,
}

impl CniArgs {
    /// What is to be installed; nothing without `--cni-conf-dir`.
    ///
    /// # Errors
    /// If the plugin's binary can't be told, or a folder is named by a path that isn't
    /// absolute: the runtime has another working folder.
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
                    "{flag} {path}: give the whole path: the plugin goes by it"
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
