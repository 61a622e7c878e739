//! TLS towards endpoints: a Service port's [`BackendTls`] and who the Gateway is -> what handshakes are made with, and the handshakes.
//!
//! # Design
//! - [`TlsDigest`] stands for all parameters, the Gateway's certificate among them. It is part of what connections are kept by
//!   ([`super::super::table`]): one that was made under other parameters is never used again, and an equal policy keeps its pool.
//! - Sessions are resumed with the parameters that they were begun with alone: each has a store of its own, for all workers.
//! - What the endpoint speaks is agreed upon by ALPN: HTTP/2 only where it says so itself (RFC 9113 part 3.2), HTTP/1.1 also where it
//!   says nothing, as many servers do. Where either will do, it has the choice. Of a stream nothing is said.
//! - No early data, and no revocation lists: authorities are few, and a policy changes at once.
use std::{fmt, io, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring::default_provider, verify_tls12_signature,
        verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use webpki::EndEntityCert;

use super::{ALPN, HTTP2, hash};
use crate::{
    model::{
        backend_tls::{BackendTls, SubjectName},
        certificate::Certificate,
        http::Hostname,
        tls::Oldest,
    },
    proxy::socket::{Socket, SocketStream},
};

/// Stands for the parameters of TLS to an endpoint.
pub(in crate::proxy) type TlsDigest = [u8; 32];

/// The stream of an endpoint that speaks TLS.
pub(in crate::proxy) type BackendStream = TlsStream<SocketStream<Socket>>;

/// What is spoken to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 or HTTP/1.1, as the endpoint chooses.
    Either,
    /// What a client whose TLS has ended here says.
    Stream,
    /// What a client says, TLS included: nothing is added to it, whatever the endpoint's policy is.
    Raw,
}

/// Why there is no TLS with an endpoint, in a sentence about it.
#[derive(Debug)]
pub(in crate::proxy) enum TlsFault {
    /// It does not speak the one version of HTTP that it was offered.
    Unspoken(String),
    /// It is not whom the policy wants, or speaks no TLS.
    Untrusted(String),
}

/// What handshakes with endpoints are made with.
pub(in crate::proxy) struct UpstreamTls {
    digest: TlsDigest,
    server_name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
    stream: Arc<ClientConfig>,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Stands for these parameters.
#[must_use]
pub(in crate::proxy) fn digest(tls: &BackendTls, identity: Option<&Certificate>) -> TlsDigest {
    let identity = identity.map(Certificate::fingerprint);
    hash([tls.digest().as_slice(), identity.as_ref().map_or(&[][..], |fingerprint| fingerprint)])
}

impl UpstreamTls {
    /// What handshakes are made with, by who shows this certificate, or none.
    ///
    /// # Errors
    /// The library refuses what the model has let pass, which it should not.
    pub(in crate::proxy) fn try_new(tls: &BackendTls, identity: Option<&Certificate>) -> Result<Self, Error> {
        let server_name = ServerName::try_from(tls.server_name.clone())
            .map_err(|_| Error::General("the server name is no DNS name".to_owned()))?;
        let mut provider = default_provider();
        provider.cipher_suites.retain(|suite| tls.ciphers.is_empty() || tls.ciphers.contains(&suite.suite()));
        let versions = match tls.oldest {
            Oldest::Tls12 => &[&TLS13, &TLS12][..],
            Oldest::Tls13 => &[&TLS13],
        };
        let verifier = Verifier::try_new(tls, &provider)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(Certificate { key, .. }) => {
                let certified = CertifiedKey::new(key.cert.clone(), Arc::clone(&key.key));
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        let speaking = |alpn: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let (http1, http2, either, stream) =
            (speaking(&ALPN[1..]), speaking(&ALPN[..1]), speaking(&ALPN), speaking(&[]));
        Ok(Self { digest: digest(tls, identity), server_name, http1, http2, either, stream })
    }

    /// Stands for all of it.
    #[must_use]
    pub(in crate::proxy) fn digest(&self) -> TlsDigest {
        self.digest
    }

    /// Makes a handshake.
    ///
    /// # Errors
    /// What is wrong with the endpoint.
    pub(in crate::proxy) async fn connect(
        &self,
        speaks: Speaks,
        stream: SocketStream<Socket>,
    ) -> Result<Box<BackendStream>, TlsFault> {
        let config = match speaks {
            Speaks::Http1 => &self.http1,
            Speaks::Http2 => &self.http2,
            Speaks::Either => &self.either,
            Speaks::Stream | Speaks::Raw => &self.stream,
        };
        let made = TlsConnector::from(Arc::clone(config)).connect(self.server_name.clone(), stream).await;
        let stream = made.map_err(|error| match speaks {
            Speaks::Http1 | Speaks::Http2 if has_no_protocol(&error) => TlsFault::Unspoken(self.sentence(&error)),
            _ => TlsFault::Untrusted(self.sentence(&error)),
        })?;
        if speaks == Speaks::Http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(TlsFault::Unspoken("it does not say by ALPN that it speaks HTTP/2".to_owned()));
        }
        Ok(Box::new(stream))
    }

    /// What is wrong.
    fn sentence(&self, error: &io::Error) -> String {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::InvalidCertificate(found)) => match found {
                CertificateError::UnknownIssuer => {
                    "none of the policy's authorities has signed its certificate".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    format!(
                        "its certificate does not have the name that the policy wants ({})",
                        self.server_name.to_str()
                    )
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet".to_owned()
                }
                other => format!("its certificate is not valid: {other}"),
            },
            Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
                "it wants a certificate, and the Gateway shows none".to_owned()
            }
            Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                "it speaks none of the protocols that ALPN offered".to_owned()
            }
            Some(Error::AlertReceived(alert)) => format!("it refused the handshake: {alert:?}"),
            Some(Error::InvalidMessage(_)) => "it does not speak TLS".to_owned(),
            Some(other) => format!("the handshake failed: {other}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it closed the connection within the handshake".to_owned()
            }
            None => format!("the handshake failed: {error}"),
        }
    }
}

/// Whether the endpoint says that it speaks nothing of what it was offered. Source: RFC 7301 part 3.2.
fn has_no_protocol(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

/// Looks at the certificates of endpoints as a policy wants it.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    names: Vec<SubjectName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn try_new(tls: &BackendTls, provider: &CryptoProvider) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        tls.authorities.certificates().iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
        Ok(Self { roots, names: tls.names.clone(), algorithms: provider.signature_verification_algorithms })
    }
}

/// Whether a certificate has a name.
fn has(certificate: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>, name: &SubjectName) -> bool {
    let read = || EndEntityCert::try_from(certificate).ok();
    match name {
        SubjectName::Host(Hostname::Exact(host)) => {
            ServerName::try_from(&**host).is_ok_and(|name| verify_server_name(parsed, &name).is_ok())
        }
        // A certificate for all names below one is for some of these.
        SubjectName::Host(wide) => read().is_some_and(|certificate| {
            let mut names = certificate.valid_dns_names();
            names.any(|name| wide.holds(&name.to_ascii_lowercase()))
        }),
        SubjectName::Uri(uri) => {
            read().is_some_and(|certificate| certificate.valid_uri_names().any(|name| name == uri))
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.names.iter().any(|name| has(end_entity, &parsed, name)) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
