//! Whom the system trusts: the certificates of authorities that `wellKnownCACertificates: System` means.
//!
//! Read once, at the start: from the file or directory that `SSL_CERT_FILE` or `SSL_CERT_DIR` names, else from where distributions
//! keep them. The image has none: whoever wants them mounts some.
use rustls::RootCertStore;

use crate::model::tls::Authorities;

/// What there is; what cannot be read, or is no certificate, is left out and logged.
#[must_use]
pub fn load() -> Authorities {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate of the system's authorities is left out");
    }
    let mut certificates = found.certs;
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    Authorities::new(certificates)
}
