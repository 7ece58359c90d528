//! The agent's certificate and the authorities of its clients, reloaded when their files change. If
//! the files can't be used, the state read earlier stays in force.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::identity::Identity;

/// Interval between two checks of the files.
const PERIOD: Duration = Duration::from_secs(2);
/// Size limit of a file in bytes; a chain of certificates has a few thousand.
const MOST: u64 = 1 << 20;

/// The flag of the agent's certificate.
pub(super) const CERT: &str = "--api-cert";
/// The flag of the agent's key.
pub(super) const KEY: &str = "--api-key";
/// The flag of the clients' authorities.
pub(super) const CLIENT_CA: &str = "--api-client-ca";

/// The files, all in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The agent's certificate, with the chain to its authority.
    pub cert: PathBuf,
    /// The agent's key.
    pub key: PathBuf,
    /// The authorities whose client certificates are accepted.
    pub client_ca: PathBuf,
    /// DNS names, URIs and common names, one of which a client's certificate must have; any
    /// certificate will do if empty.
    pub client_names: Vec<String>,
}

/// Why files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read.
    #[error("{flag} {}: {source}", path.display())]
    Read {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file has the wrong content.
    #[error("{flag} {}: {what}", path.display())]
    Bad {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The contents of the files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Vec<u8>,
}

impl CertificateFiles {
    fn read(&self) -> Result<Contents, CertificateError> {
        Ok(Contents {
            cert: read(CERT, &self.cert)?,
            key: read(KEY, &self.key)?,
            client_ca: read(CLIENT_CA, &self.client_ca)?,
        })
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST {
            let text = format!("it is larger than {MOST} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    };
    read().map_err(|source| CertificateError::Read {
        flag,
        path: path.to_owned(),
        source,
    })
}

/// The state of the certificate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// When the certificate expires, in seconds since 1970.
    pub expires: i64,
    /// Why the present files can't be used; none if they are in force.
    pub error: Option<String>,
    /// How often files couldn't be used since the start.
    pub errors: u64,
}

/// The certificates in force, and the files that they came from.
pub struct Certificates {
    files: CertificateFiles,
    state: RwLock<State>,
}

struct State {
    contents: Contents,
    identity: Arc<Identity>,
    /// The error of the last check. It counts once the next check finds the same error: files that
    /// aren't replaced atomically are inconsistent for a moment.
    found: Option<String>,
    health: Health,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// If a file can't be read or used, or the files don't match: names the flag and the file.
    pub fn read(files: CertificateFiles) -> Result<Self, CertificateError> {
        let contents = files.read()?;
        let identity = Identity::new(&files, &contents)?;
        warn_of_expiry(&identity);
        let health = Health {
            expires: identity.expires,
            ..Health::default()
        };
        let state = RwLock::new(State {
            contents,
            identity: Arc::new(identity),
            found: None,
            health,
        });
        Ok(Self { files, state })
    }

    /// Returns the identity in force.
    pub(super) fn current(&self) -> Arc<Identity> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.identity)
    }

    /// Returns the state of the certificate.
    pub fn health(&self) -> Health {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.health.clone()
    }

    /// Checks the files until the process ends.
    pub async fn watch(self: Arc<Self>) {
        loop {
            sleep(PERIOD).await;
            let looking = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || looking.look()).await {
                tracing::warn!("checking the API's certificate: {error}");
            }
        }
    }

    /// Loads the files if they have changed and are valid. Logs each error once.
    pub(super) fn look(&self) {
        let read = self.files.read();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let renewed = read.and_then(|contents| {
            let is_new = contents != state.contents;
            let renewed = is_new.then(|| Identity::new(&self.files, &contents));
            Ok(renewed.transpose()?.map(|identity| (contents, identity)))
        });
        match renewed {
            Ok(None) => state.is_well(),
            Ok(Some((contents, identity))) => {
                warn_of_expiry(&identity);
                tracing::info!("the API's certificate and its clients' authorities were reloaded");
                state.health.expires = identity.expires;
                (state.contents, state.identity) = (contents, Arc::new(identity));
                state.is_well();
            }
            Err(error) => state.is_wrong(error.to_string()),
        }
    }
}

impl State {
    fn is_well(&mut self) {
        (self.found, self.health.error) = (None, None);
    }

    fn is_wrong(&mut self, error: String) {
        let was_found = self.found.as_ref() == Some(&error);
        let was_told = self.health.error.as_ref() == Some(&error);
        if was_found && !was_told {
            tracing::warn!("{error}; what was read earlier stays in force");
            self.health.errors += 1;
            self.health.error = Some(error.clone());
        }
        self.found = Some(error);
    }
}

fn warn_of_expiry(identity: &Identity) {
    if identity.expires <= now() {
        tracing::warn!("{CERT}: the certificate has expired, so no client will accept it");
    }
}

/// Returns the time in seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs().try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
