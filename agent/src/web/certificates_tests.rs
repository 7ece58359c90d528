use std::fs;
use std::os::unix::fs::symlink;

use super::super::issued::{self, Authority, Issued};
use super::*;

struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new("both"),
        }
    }

    fn write(&self, own: &Issued) -> CertificateFiles {
        issued::files(self.folder.path(), own, &self.authority.pem())
    }

    /// Returns why these files can't be used.
    fn error(&self, change: impl FnOnce(&CertificateFiles)) -> String {
        let files = self.write(&self.authority.issue("agent"));
        change(&files);
        let read = Certificates::read(files);
        read.map(drop).unwrap_err().to_string()
    }
}

/// Checks twice: the second check confirms the result of the first.
fn look(certificates: &Certificates) -> Health {
    certificates.look();
    certificates.look();
    certificates.health()
}

#[test]
fn what_cannot_be_used_is_refused_with_its_flag_and_file() {
    let site = Site::new();
    let other = site.authority.issue("other");
    let replace = |path: &Path, text: &str| fs::write(path, text).unwrap();
    let errors = [
        (
            "--api-cert",
            "tls.crt",
            site.error(|f| replace(&f.cert, "no")),
        ),
        (
            "--api-cert",
            "tls.crt",
            site.error(|f| replace(&f.cert, "")),
        ),
        (
            "--api-cert",
            "tls.crt",
            site.error(|f| fs::remove_file(&f.cert).unwrap()),
        ),
        (
            "--api-cert",
            "tls.crt",
            site.error(|f| replace(&f.cert, &other.key)),
        ),
        (
            "--api-key",
            "tls.key",
            site.error(|f| replace(&f.key, &other.cert)),
        ),
        (
            "--api-key",
            "tls.key",
            site.error(|f| replace(&f.key, &other.key)),
        ),
        (
            "--api-key",
            "tls.key",
            site.error(|f| replace(&f.key, "no")),
        ),
        (
            "--api-client-ca",
            "ca.crt",
            site.error(|f| replace(&f.client_ca, "")),
        ),
        (
            "--api-client-ca",
            "ca.crt",
            site.error(|f| replace(&f.client_ca, &other.key)),
        ),
    ];
    for (flag, file, error) in errors {
        let path = site.folder.path().join(file);
        let start = format!("{flag} {}: ", path.display());
        assert!(error.starts_with(&start), "{error}");
    }
    let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for file in ["tls.crt", "ca.crt"] {
        let error = site.error(|_| replace(&site.folder.path().join(file), torn));
        assert!(
            error.contains(file) && error.contains("can't be read"),
            "{error}"
        );
    }
    let large = site.error(|f| fs::write(&f.client_ca, vec![b'x'; 2 << 20]).unwrap());
    assert!(large.contains("larger"), "{large}");
}

#[test]
fn a_new_certificate_is_in_force_at_the_next_look() {
    let site = Site::new();
    let certificates = Certificates::read(site.write(&site.authority.issue("agent"))).unwrap();
    let before = certificates.current();
    certificates.look();
    assert!(
        Arc::ptr_eq(&before, &certificates.current()),
        "nothing has changed"
    );
    site.write(&site.authority.expired("agent"));
    certificates.look();
    let health = certificates.health();
    assert!(health.expires < before.expires);
    assert_eq!(health.expires, certificates.current().expires);
    assert_eq!((health.error, health.errors), (None, 0));
}

#[test]
fn a_volume_that_swaps_all_files_by_a_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("both");
    let at = |name: &str| folder.path().join(name);
    let version = |name: &str, own: &Issued| {
        fs::create_dir(at(name)).unwrap();
        issued::files(&at(name), own, &authority.pem());
        symlink(name, at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
    };
    version("..1", &authority.issue("agent"));
    let names = ["tls.crt", "tls.key", "ca.crt"];
    for name in names {
        symlink(format!("..data/{name}"), at(name)).unwrap();
    }
    let [cert, key, client_ca] = names.map(at);
    let certificates = Certificates::read(CertificateFiles {
        cert,
        key,
        client_ca,
        client_names: Vec::new(),
    })
    .unwrap();
    let before = certificates.health().expires;
    version("..2", &authority.expired("agent"));
    fs::remove_dir_all(at("..1")).unwrap();
    certificates.look();
    assert!(certificates.health().expires < before);
}

#[test]
fn files_that_break_leave_the_old_ones_in_force_and_are_told_of_once() {
    let site = Site::new();
    let own = site.authority.issue("agent");
    let files = site.write(&own);
    let certificates = Certificates::read(files.clone()).unwrap();
    let before = certificates.current();
    fs::write(&files.cert, "no").unwrap();
    for _ in 0..3 {
        let health = look(&certificates);
        assert_eq!((health.errors, health.expires), (1, before.expires));
        assert!(health.error.unwrap().starts_with("--api-cert "));
    }
    fs::remove_file(&files.key).unwrap();
    fs::write(&files.cert, &own.cert).unwrap();
    let health = look(&certificates);
    assert!(health.error.unwrap().starts_with("--api-key "));
    assert_eq!(health.errors, 2);
    assert!(Arc::ptr_eq(&before, &certificates.current()));

    site.write(&own);
    assert_eq!(look(&certificates).error, None, "as they were");
    site.write(&site.authority.issue("agent"));
    look(&certificates);
    assert!(!Arc::ptr_eq(&before, &certificates.current()));
}

#[test]
fn files_that_are_at_odds_while_they_are_written_are_no_fault() {
    let site = Site::new();
    let files = site.write(&site.authority.issue("agent"));
    let certificates = Certificates::read(files.clone()).unwrap();
    let before = certificates.current();
    let next = site.authority.issue("agent");
    fs::write(&files.cert, &next.cert).unwrap();
    certificates.look();
    assert!(Arc::ptr_eq(&before, &certificates.current()));
    fs::write(&files.key, &next.key).unwrap();
    certificates.look();
    assert!(!Arc::ptr_eq(&before, &certificates.current()));
    assert_eq!(certificates.health().errors, 0);
}
