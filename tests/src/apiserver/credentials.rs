//! Certificates, kubeconfigs and service accounts.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A server's certificate, and the authority that it is from.
pub(super) struct Identity {
    ca_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// An authority of its own, and a certificate for an address.
    pub(super) fn new(address: IpAddr) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "ringfence test authority");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let names = ["localhost", "kubernetes.default.svc"].map(String::from);
        let mut params = CertificateParams::new(names)?;
        params.subject_alt_names.push(SanType::IpAddress(address));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &ca)?;
        Ok(Self {
            ca_pem: ca.pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        })
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What turns connections into TLS.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor> {
        let key = PrivateKeyDer::try_from(self.key.clone());
        let key = key.map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

pub(super) fn write_kubeconfig(file: &Path, url: &str, ca_pem: &str, token: &str) -> Result<()> {
    let folder = file.parent().context("no folder")?;
    let ca = folder.join("ca.crt");
    fs::write(&ca, ca_pem)?;
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": ca}}],
        "users": [{"name": "test", "user": {"token": token}}],
    });
    replace(file, &config.to_string())
}

pub(super) fn write_service_account(folder: &Path, ca_pem: &str, token: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    replace(&folder.join("ca.crt"), ca_pem)?;
    replace(&folder.join("namespace"), "kube-system")?;
    replace(&folder.join("token"), token)
}

/// All at once: no reader sees half of it.
fn replace(file: &Path, text: &str) -> Result<()> {
    let draft = file.with_extension("draft");
    fs::write(&draft, text)?;
    fs::rename(&draft, file).with_context(|| file.display().to_string())
}
