//! A listener whose clients present certificates. The handshake runs in the connection's own task,
//! so that a silent client delays nobody else.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{CertificateError, Error};
use tokio_rustls::server::TlsStream;

use super::admission::Admission;
use super::certificates::Certificates;
use super::rate::Rate;
use super::refused::Reason;
use super::serve::{Accept, Admitting, Incoming, Stay};

/// TLS over the connections of another listener.
pub struct TlsListener<F> {
    inner: Admitting<F>,
    admission: Arc<Admission>,
    certificates: Arc<Certificates>,
    rate: Rate,
}

impl<F> TlsListener<F> {
    /// Creates a listener with these certificates. `admission` is checked again for clients of
    /// endless responses.
    pub fn new(
        inner: Admitting<F>,
        admission: Arc<Admission>,
        certificates: Arc<Certificates>,
    ) -> Self {
        Self {
            inner,
            admission,
            certificates,
            rate: Rate::default(),
        }
    }
}

impl<F: Fn(IpAddr) -> Result<(), Reason> + Send + 'static> Accept for TlsListener<F> {
    type Incoming = Handshake;

    async fn accept(&mut self) -> io::Result<Result<(Handshake, IpAddr), Reason>> {
        let (stream, client) = match self.inner.accept().await? {
            Ok(accepted) => accepted,
            Err(reason) => return Ok(Err(reason)),
        };
        if !self.rate.take(client, Instant::now()) {
            return Ok(Err(Reason::TooOften));
        }
        let handshake = Handshake {
            stream,
            client,
            admission: Arc::clone(&self.admission),
            certificates: Arc::clone(&self.certificates),
        };
        Ok(Ok((handshake, client)))
    }
}

/// A connection before its handshake.
pub struct Handshake {
    stream: TcpStream,
    client: IpAddr,
    admission: Arc<Admission>,
    certificates: Arc<Certificates>,
}

impl Incoming for Handshake {
    type Io = TlsStream<TcpStream>;

    async fn open(self) -> Result<(Self::Io, Stay), Reason> {
        let config = Arc::clone(&self.certificates.current().config);
        let stream = TlsAcceptor::from(config).accept(self.stream).await;
        let stream = stream.map_err(|error| broken_off(&error))?;
        let (_, session) = stream.get_ref();
        // The handshake guarantees that there are some.
        let shown = session.peer_certificates().ok_or(Reason::NoCertificate)?;
        let shown: Vec<_> = shown.iter().map(|one| one.clone().into_owned()).collect();
        let stay = move || {
            self.admission.admit_probe(self.client)?;
            let admitted = self.certificates.current().admit(&shown);
            admitted.map_err(|error| refused(&error))
        };
        Ok((stream, Box::new(stay)))
    }
}

/// Classifies a failed handshake. If the client has disconnected, there is no TLS error.
fn broken_off(error: &io::Error) -> Reason {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or(Reason::Handshake, refused)
}

fn refused(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => Reason::NoCertificate,
        Error::InvalidMessage(_) => Reason::Malformed,
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => Reason::UnknownAuthority,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Reason::ExpiredCertificate,
            CertificateError::ApplicationVerificationFailure => Reason::NameNotListed,
            _ => Reason::BadCertificate,
        },
        _ => Reason::Handshake,
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
