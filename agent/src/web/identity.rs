//! Turns PEM files into a TLS configuration: TLS 1.3 only, with certificates on both sides, and no
//! resumption of sessions.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::certificates::{CERT, CLIENT_CA, CertificateError, CertificateFiles, Contents, KEY};

/// The agent's certificate, and the verifier of its clients.
pub(super) struct Identity {
    /// The configuration for handshakes.
    pub(super) config: Arc<ServerConfig>,
    /// When the agent's certificate expires, in seconds since 1970.
    pub(super) expires: i64,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expires = &self.expires;
        f.debug_struct("Identity")
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Fails if something can't be used: names the flag and the file.
    pub(super) fn new(
        files: &CertificateFiles,
        contents: &Contents,
    ) -> Result<Self, CertificateError> {
        let own = bad(CERT, &files.cert);
        let chain = certificates(&contents.cert).map_err(&own)?;
        let expires = expiry(&chain[0]).map_err(&own)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| bad(KEY, &files.key)(no_key(&error)))?;
        let authorities =
            authorities(&contents.client_ca).map_err(bad(CLIENT_CA, &files.client_ca))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(authorities),
            Arc::clone(&provider),
        )
        .build()
        .map_err(|error| bad(CLIENT_CA, &files.client_ca)(error.to_string()))?;
        let verifier = Named::of(verifier, &files.client_names);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| own(error.to_string()))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, key)
            .map_err(|error| unfit(files, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session would present no certificate: it could outlive the client's own, or its
        // authority.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            expires,
            verifier,
        })
    }

    /// Checks whether a client with these certificates, its own first, would be admitted now.
    pub(super) fn admit(&self, shown: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (own, others) = shown
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let admitted = self
            .verifier
            .verify_client_cert(own, others, UnixTime::now());
        admitted.map(drop)
    }
}

/// Returns a constructor of errors about a file.
fn bad(flag: &'static str, path: &Path) -> impl Fn(String) -> CertificateError {
    move |what| CertificateError::Bad {
        flag,
        path: path.to_owned(),
        what,
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| format!("it isn't PEM: {error}"))?;
    if all.is_empty() {
        return Err("it holds no certificate in PEM".into());
    }
    Ok(all)
}

fn no_key(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "it holds no private key in PEM".into(),
        error => format!("it isn't PEM: {error}"),
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(pem)? {
        let added = authorities.add(certificate);
        added.map_err(|error| format!("it holds a certificate that can't be read: {error}"))?;
    }
    Ok(authorities)
}

fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let parsed = parse_x509_certificate(certificate);
    let (_, parsed) = parsed.map_err(|error| format!("the certificate can't be read: {error}"))?;
    Ok(parsed.validity().not_after.timestamp())
}

/// Describes why certificate and key can't be used together.
fn unfit(files: &CertificateFiles, error: &rustls::Error) -> CertificateError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            let cert = files.cert.display();
            bad(KEY, &files.key)(format!(
                "it isn't the key of the certificate in {CERT} {cert}"
            ))
        }
        rustls::Error::InvalidCertificate(_) => bad(CERT, &files.cert)(error.to_string()),
        _ => bad(KEY, &files.key)(error.to_string()),
    }
}

/// Wraps rustls' verifier, and requires that a certificate has one of some names.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl Named {
    fn of(inner: Arc<dyn ClientCertVerifier>, names: &[String]) -> Arc<dyn ClientCertVerifier> {
        if names.is_empty() {
            return inner;
        }
        let names = names.to_vec();
        Arc::new(Self { inner, names })
    }

    fn has_one(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = parse_x509_certificate(certificate) else {
            return false;
        };
        let is_listed = |name: &str| self.names.iter().any(|listed| listed == name);
        let common = parsed.subject().iter_common_name();
        let mut common = common.filter_map(|name| name.as_str().ok());
        // A duplicate or unreadable extension counts as absent.
        let others = parsed.subject_alternative_name().ok().flatten();
        let others = others.map_or(&[][..], |names| &names.value.general_names[..]);
        let mut others = others.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some(*name),
            _ => None,
        });
        common.any(is_listed) || others.any(is_listed)
    }
}

impl ClientCertVerifier for Named {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(own, others, now)?;
        if self.has_one(own) {
            Ok(verified)
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
