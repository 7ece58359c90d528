//! Who an agent is to an API server.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::testnet::Ns;

/// Where service accounts are mounted into pods.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What an agent is given to know an API server, and to be known, by.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// `--kubeconfig`.
    Kubeconfig(PathBuf),
    /// What a pod has: a folder at the usual place, and variables.
    ServiceAccount {
        /// The folder, as `ApiServer::write_service_account` writes it.
        folder: PathBuf,
        /// The variables, as of `ApiServer::env`.
        env: Vec<(String, String)>,
    },
}

/// A program with a service account at the usual place, in a mount namespace of its
/// own, which sees what is mounted on the node later, as a pod with
/// `mountPropagation: HostToContainer` does.
pub(super) fn in_a_pod(
    node: &Ns,
    program: &Path,
    folder: &Path,
    env: &[(String, String)],
) -> Command {
    // The place has to be there to be mounted on; what else is there stays as it is.
    let script = format!(
        "mkdir -p {SERVICE_ACCOUNT} && mount --bind {} {SERVICE_ACCOUNT} && exec \"$@\"",
        folder.display()
    );
    let mut command = node.command("unshare");
    command
        .args(["--mount", "--propagation", "slave", "--", "sh", "-c"])
        .args([script.as_str(), "sh"])
        .arg(program)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .envs(env.iter().map(|(name, value)| (name, value)));
    command
}
