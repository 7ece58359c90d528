//! Flags of the read-only API for programs.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;

use crate::web::CertificateFiles;

/// Where `ringfence agent` serves programs, and with which certificates.
#[derive(Args, Debug, Clone, Default)]
pub struct ApiArgs {
    /// Where programs may read what `ringfence status`, `endpoints`, `connections` and `drops`
    /// show, over mutual TLS [default: none]
    ///
    /// A client with a certificate from the right authority learns the names and addresses of this
    /// node's pods and who talks to whom. The API is read-only, and never serves a pod under
    /// quarantine. The files are read again when they change.
    #[arg(long, value_name = "IP:PORT")]
    pub api_addr: Option<String>,
    /// The certificate that the agent presents there, with its chain (PEM)
    #[arg(long, value_name = "FILE", requires = "api_addr")]
    pub api_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "api_addr")]
    pub api_key: Option<PathBuf>,
    /// The authorities whose client certificates are accepted (PEM); a certificate is required
    #[arg(long, value_name = "FILE", requires = "api_addr")]
    pub api_client_ca: Option<PathBuf>,
    /// Accept only client certificates that have this DNS name, URI or common name; repeat for more
    /// [default: every certificate of those authorities]
    #[arg(long, value_name = "NAME", requires = "api_addr")]
    pub api_client_name: Vec<String>,
}

/// The listener for programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiListener {
    /// The address to listen on.
    pub address: SocketAddr,
    /// The listener's certificates.
    pub files: CertificateFiles,
}

impl ApiArgs {
    /// Returns the requested listener, if any.
    ///
    /// # Errors
    /// If the address doesn't parse, or a required file isn't given.
    pub fn listener(self) -> anyhow::Result<Option<ApiListener>> {
        let Some(text) = self.api_addr.filter(|text| text != "none") else {
            return Ok(None);
        };
        let address = text.parse::<SocketAddr>();
        let address =
            address.with_context(|| format!("--api-addr {text}: neither IP:PORT nor `none`"))?;
        let named = |flag, file: Option<PathBuf>| {
            file.ok_or_else(|| anyhow!("--api-addr {text}: {flag} is required too"))
        };
        if self.api_client_name.iter().any(String::is_empty) {
            return Err(anyhow!(
                "--api-client-name: no certificate has an empty name"
            ));
        }
        Ok(Some(ApiListener {
            address,
            files: CertificateFiles {
                cert: named("--api-cert", self.api_cert)?,
                key: named("--api-key", self.api_key)?,
                client_ca: named("--api-client-ca", self.api_client_ca)?,
                client_names: self.api_client_name,
            },
        }))
    }
}
