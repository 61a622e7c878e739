//! Which of a listener's certificates a client gets.
//!
//! First those that are made for the name that the client asks for, then those whose signatures it takes, and of these an
//! elliptic one: it costs a tenth of RSA. Where none fits in both the first that fits in one is given: the client says best what it
//! does not like about it.
use std::sync::Arc;

use rustls::{
    SignatureAlgorithm,
    client::verify_server_name,
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::model::certificate::Certificate;

/// Chooses among the certificates of one listener.
#[derive(Debug)]
pub(super) struct Resolver {
    /// The elliptic ones first, else in the order of the listener.
    keys: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    /// A choice among these.
    pub(super) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut keys: Vec<_> = certificates.iter().map(|certificate| Arc::clone(&certificate.key)).collect();
        keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
        Self { keys }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The common case pays for nothing.
        if let [only] = &self.keys[..] {
            return Some(Arc::clone(only));
        }
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_for_name = |key: &CertifiedKey| {
            let Some(name) = &name else { return true };
            let parsed = key.end_entity_cert().ok().and_then(|der| ParsedCertificate::try_from(der).ok());
            parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
        };
        let rank = |key: &CertifiedKey| {
            let signs = key.key.choose_scheme(hello.signature_schemes()).is_some();
            (is_for_name(key), signs)
        };
        // Of equals the last is the maximum.
        self.keys.iter().rev().max_by_key(|key| rank(key)).cloned()
    }
}
