//! Who looks at the certificates of clients.
use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoClientAuth, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::hash;
use crate::model::tls::{Authorities, Clients};

/// The verifier that a listener asks for.
///
/// # Errors
/// The library refuses the authorities, which the model has looked at.
pub(super) fn verifier(clients: &Clients, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let (authorities, is_required) = match clients {
        Clients::Unasked => return Ok(Arc::new(NoClientAuth)),
        Clients::Required(authorities) => (authorities, true),
        Clients::Optional(authorities) => (authorities, false),
    };
    let builder = WebPkiClientVerifier::builder_with_provider(roots(authorities)?, provider);
    let verifier = builder.build().map_err(|error| Error::General(error.to_string()))?;
    Ok(if is_required { verifier } else { Arc::new(Optional(verifier)) })
}

/// Stands for who signs for clients, and whether anybody must.
pub(super) fn digest(clients: &Clients) -> String {
    let (kind, authorities) = match clients {
        Clients::Unasked => return String::new(),
        Clients::Required(authorities) => ("required", authorities),
        Clients::Optional(authorities) => ("optional", authorities),
    };
    let digest = hash(authorities.certificates().iter().map(AsRef::as_ref));
    digest.iter().fold(kind.to_owned(), |text, byte| format!("{text} {byte:02x}"))
}

fn roots(authorities: &Authorities) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    authorities.certificates().iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
    Ok(Arc::new(roots))
}

/// Asks for a certificate and takes whatever comes, or nothing; that who shows one has its key is looked at all the same.
#[derive(Debug)]
struct Optional(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Optional {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
