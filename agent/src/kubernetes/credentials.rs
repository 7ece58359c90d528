//! Who the agent is to the API server, and where that is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// A connection that isn't made within so long is tried anew: the kernel's own tries lie
/// ever farther apart, and what comes back meanwhile would be noticed late.
const CONNECT: Duration = Duration::from_secs(3);

/// Where credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `--kubeconfig`, if it was given.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file that was named, or is where kubeconfigs are.
    #[error("{what}: {source}")]
    Kubeconfig {
        /// How it came to be read.
        what: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// No file is there, and the process runs in no pod.
    #[error(
        "no cluster to ask: neither --kubeconfig nor KUBECONFIG is given, there is no \
         ~/.kube/config, and there is no service account of a pod ({0}); or give --manifests PATH"
    )]
    NoCluster(InClusterError),
    /// They are there, but of no use: a certificate that isn't one, say.
    #[error("the cluster's credentials can't be used: {0}")]
    Unusable(kube::Error),
}

impl Access {
    /// Reads them, anew with each call: tokens and certificates are replaced while
    /// the agent runs. In the order that kubectl has: the flag, `KUBECONFIG`,
    /// `~/.kube/config`, a pod's service account.
    pub async fn config(&self) -> Result<Config, AccessError> {
        let mut config = match &self.kubeconfig {
            Some(file) => from_file(file).await?,
            None => self.found().await?,
        };
        // Retries are ours to make, and to show.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        Ok(config)
    }

    /// A client with these credentials.
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

/// `~/.kube/config`, if it is there.
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
