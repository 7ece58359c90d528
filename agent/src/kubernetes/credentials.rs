//! The agent's credentials for the API server, and the server's address.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Limit for establishing a connection before it is retried: the kernel's own retries are spaced
/// ever farther apart, so a returning server would be noticed late.
const CONNECT: Duration = Duration::from_secs(3);

/// The source of credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `--kubeconfig`, if it was given.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A kubeconfig that was given, or found in its default place, is invalid.
    #[error("{what}: {source}")]
    Kubeconfig {
        /// How the file was chosen.
        what: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// There is no kubeconfig, and the process doesn't run in a pod.
    #[error(
        "no cluster to ask: neither --kubeconfig nor KUBECONFIG is given, and there is neither a \
         ~/.kube/config nor a pod's service account ({0}); alternatively, give --manifests PATH"
    )]
    NoCluster(InClusterError),
    /// The credentials exist but are unusable, for example because of a malformed certificate.
    #[error("the cluster's credentials can't be used: {0}")]
    Unusable(kube::Error),
}

impl Access {
    /// Reads the credentials again on each call, since tokens and certificates are replaced while
    /// the agent runs. Uses kubectl's order of precedence: the flag, `KUBECONFIG`,
    /// `~/.kube/config`, a pod's service account.
    pub async fn config(&self) -> Result<Config, AccessError> {
        let mut config = match &self.kubeconfig {
            Some(file) => from_file(file).await?,
            None => self.found().await?,
        };
        // The agent does its own retries, and reports them.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        Ok(config)
    }

    /// Returns a client with these credentials.
    pub async fn client(&self) -> Result<Client, AccessError> {
        Client::try_from(self.config().await?).map_err(AccessError::Unusable)
    }

    async fn found(&self) -> Result<Config, AccessError> {
        let what = match (std::env::var_os("KUBECONFIG"), home_config()) {
            (Some(files), _) if !files.is_empty() => {
                format!("KUBECONFIG {}", Path::new(&files).display())
            }
            (_, Some(file)) => file.display().to_string(),
            (_, None) => return Config::incluster().map_err(AccessError::NoCluster),
        };
        let options = KubeConfigOptions::default();
        let config = Config::from_kubeconfig(&options).await;
        config.map_err(|source| AccessError::Kubeconfig { what, source })
    }
}

/// Returns the path of `~/.kube/config` if it exists.
fn home_config() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    let file = Path::new(&home).join(".kube/config");
    file.exists().then_some(file)
}

async fn from_file(file: &Path) -> Result<Config, AccessError> {
    let failed = |source| AccessError::Kubeconfig {
        what: format!("--kubeconfig {}", file.display()),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(file).map_err(failed)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map_err(failed)
}
