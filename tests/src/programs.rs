//! A program that reads the agent's API over TLS, and the certificates of both.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::testnet::Ns;

/// For an answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whom the agent's certificate is for.
const NAME: &str = "ringfence-api";

/// An authority, and the files that an agent is given of it.
pub struct Programs {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// An open connection over TLS.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Programs {
    /// Writes `tls.crt`, `tls.key` and `ca.crt` into a folder of that name. The agent's
    /// certificate expires with this year.
    pub fn new(folder: &Path, year: i32) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "ringfence programs");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("ca.crt"), authority.pem())?;
        let programs = Self {
            authority,
            folder: folder.to_owned(),
        };
        programs.renew(year)?;
        Ok(programs)
    }

    /// Gives the agent another certificate and key.
    pub fn renew(&self, year: i32) -> Result<()> {
        let (certificate, key) = self.issue(NAME, year)?;
        fs::write(self.file("tls.crt"), certificate.pem())?;
        fs::write(self.file("tls.key"), key.serialize_pem())?;
        Ok(())
    }

    /// One of the files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The agent's flags.
    pub fn flags(&self, at: SocketAddr) -> Vec<String> {
        let file = |flag: &str, name: &str| format!("{flag}={}", self.file(name).display());
        vec![
            format!("--api-addr={at}"),
            file("--api-cert", "tls.crt"),
            file("--api-key", "tls.key"),
            file("--api-client-ca", "ca.crt"),
        ]
    }

    /// A program's configuration, with a certificate of the authority if it has one.
    pub fn client(&self, has_certificate: bool) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(Arc::new(if has_certificate {
            let (certificate, key) = self.issue("relay", 4000)?;
            let key = PrivateKeyDer::try_from(key.serialize_der());
            let key = key.map_err(|error| anyhow!("{error}"))?;
            config.with_client_auth_cert(vec![certificate.der().clone()], key)?
        } else {
            config.with_no_client_auth()
        }))
    }

    fn issue(&self, name: &str, year: i32) -> Result<(rcgen::Certificate, KeyPair)> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.not_after = date_time_ymd(year, 12, 31);
        let common = &mut params.distinguished_name;
        common.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.authority)?;
        Ok((certificate, key))
    }
}

/// A connection on which a page has been asked for.
pub fn ask(client: &Arc<ClientConfig>, from: &Ns, to: SocketAddr, request: &str) -> Result<Stream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let session = ClientConnection::new(Arc::clone(client), ServerName::try_from(NAME)?)?;
    let mut stream = StreamOwned::new(session, stream);
    write!(stream, "{request} HTTP/1.1\r\nHost: node\r\n\r\n")?;
    Ok(stream)
}

/// Code and JSON of an answer.
pub fn answer(
    client: &Arc<ClientConfig>,
    from: &Ns,
    to: SocketAddr,
    request: &str,
) -> Result<(u16, Value)> {
    let mut text = String::new();
    ask(client, from, to, request)?.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no whole answer")?;
    let code = head.split(' ').nth(1).context("no code")?.parse()?;
    // A page that isn't there has no JSON.
    Ok((code, serde_json::from_str(body).unwrap_or_default()))
}
