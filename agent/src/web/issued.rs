//! Authorities, certificates and clients for tests.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::CertificateFiles;

/// The address of clients in tests.
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Another client on the loopback device.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// An issuer of certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `localhost` with a common name.
    pub(crate) fn issue(&self, common_name: &str) -> Issued {
        self.issue_with(common_name, |_| {})
    }

    /// Issues a certificate that has expired.
    pub(crate) fn expired(&self, common_name: &str) -> Issued {
        self.issue_with(common_name, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// Issues a certificate that only servers may use.
    pub(crate) fn for_servers(&self, common_name: &str) -> Issued {
        self.issue_with(common_name, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// Issues a certificate with a URI.
    pub(crate) fn with_uri(&self, common_name: &str, uri: &str) -> Issued {
        self.issue_with(common_name, |params| {
            let uri = SanType::URI(uri.try_into().unwrap());
            params.subject_alt_names.push(uri);
        })
    }

    fn issue_with(&self, common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Writes the agent's files into a folder.
pub(crate) fn files(folder: &Path, own: &Issued, client_ca: &str) -> CertificateFiles {
    let write = |name, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    CertificateFiles {
        cert: write("tls.crt", &own.cert),
        key: write("tls.key", &own.key),
        client_ca: write("ca.crt", client_ca),
        client_names: Vec::new(),
    }
}

/// Returns a client that trusts an authority, and presents a certificate if it has one.
pub(crate) fn client(trusted: &Authority, own: Option<&Issued>) -> Arc<ClientConfig> {
    client_of(&[&TLS13], trusted, own)
}

/// Returns such a client for other versions of TLS.
pub(crate) fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    trusted: &Authority,
    own: Option<&Issued>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_slice(trusted.pem().as_bytes());
    roots.add(trusted.unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match own {
        None => config.with_no_client_auth(),
        Some(Issued { cert, key }) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![cert], key).unwrap()
        }
    })
}

pub(crate) async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Sends a request over TLS, and doesn't read the answer.
pub(crate) async fn ask(
    to: SocketAddr,
    client: &Arc<ClientConfig>,
    request: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = connect(HERE, to).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::clone(client))
        .connect(name, stream)
        .await?;
    let request = format!("{request} HTTP/1.1\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Returns the first line and the body of an answer.
pub(crate) async fn answer(
    to: SocketAddr,
    client: &Arc<ClientConfig>,
    request: &str,
) -> io::Result<(String, String)> {
    let mut stream = ask(to, client, request).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let parts = text.split_once("\r\n\r\n");
    let (head, body) = parts.ok_or(io::ErrorKind::UnexpectedEof)?;
    let first = head.lines().next().unwrap_or_default();
    Ok((first.to_owned(), body.to_owned()))
}
