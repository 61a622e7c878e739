//! TLS. Towards endpoints: [`backend`]. Towards clients: a listener's [`Termination`] -> what handshakes are made with, and the handshakes.
//!
//! ```text
//! ClientHello -> listener by the server name -> configuration by the versions offered -> certificate by the signatures offered
//! ```
//!
//! # Design
//! - The most specific host name decides, as for requests. No listener has the name: the handshake is refused with the alert
//!   `unrecognized_name`, as HAProxy (`strict-sni`) and nginx (`ssl_reject_handshake`) do. Envoy closes without a word, which
//!   people take for a fault of the network. A default certificate would make every name seem to be served here.
//! - A configuration belongs to the listener's [`Termination`] and lives as long as that is equal: a table that is replaced for a
//!   route or for another listener keeps it, and with it the keys of tickets. A certificate that is exchanged is used by the next
//!   handshake; open connections keep what they were made with.
//! - Each version has a configuration, because a session ticket of TLS 1.2 is worth more than one of TLS 1.3: see [`tickets`].
//! - No early data: a request in it can be replayed (RFC 8446 part 8), and the gain is one round trip.
mod backend;
mod client_hello;
mod clients;
mod handshake;
mod resolver;
mod tickets;
mod under_way;

use std::{fmt, sync::Arc};

use ring::digest;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring::default_provider},
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};

pub(super) use self::{
    backend::{BackendStream, Speaks, TlsDigest, TlsFault, UpstreamTls, digest as backend_digest},
    handshake::{Handshaken, Secured, TlsStream, accept},
    under_way::UnderWay,
};
use self::{
    resolver::Resolver,
    tickets::{Seed, Tickets},
};
use crate::model::{
    http::HttpListener,
    tls::{Oldest, Termination},
};

/// HTTP/2, as ALPN calls it.
pub(super) const HTTP2: &[u8] = b"h2";
/// The protocols that are spoken under TLS, the better first.
const ALPN: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// What this process alone knows: the source of the keys of TLS 1.2 tickets.
#[derive(Clone, Debug)]
pub(super) struct Local(Arc<Seed>);

impl Default for Local {
    fn default() -> Self {
        Self(Arc::new(Seed::random()))
    }
}

/// What handshakes of a listener are made with.
pub(super) struct TlsListener {
    termination: Arc<Termination>,
    /// TLS 1.3; `None` where the listener has no cipher suite of it.
    modern: Option<Arc<ServerConfig>>,
    /// TLS 1.2; `None` where the listener does without it.
    legacy: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").field("termination", &self.termination).finish_non_exhaustive()
    }
}

impl TlsListener {
    /// What a listener's handshakes are made with.
    ///
    /// # Errors
    /// The library refuses what the model has let pass, which it should not.
    pub(super) fn try_new(
        listener: &HttpListener,
        termination: &Arc<Termination>,
        local: &Local,
    ) -> Result<Self, rustls::Error> {
        // What was sealed for a client whose certificate one authority has signed does for no other.
        let place = format!("{}/{} {}", listener.gateway, listener.name, clients::digest(&termination.clients));
        let shared = Seed::of(&termination.certificates);
        let config = |version: &'static SupportedProtocolVersion, seed| {
            let provider = provider(termination, version);
            let has_suites = !provider.cipher_suites.is_empty();
            // Who is behind a stream says what is spoken; a protocol that is not offered to HTTP must not end the handshake.
            let alpn = if listener.streams.is_none() { &ALPN[..] } else { &[] };
            has_suites.then(|| config(termination, version, (provider, alpn), Tickets::new(seed, &place))).transpose()
        };
        let legacy = match termination.oldest {
            Oldest::Tls12 => config(&TLS12, &*local.0)?,
            Oldest::Tls13 => None,
        };
        Ok(Self { termination: Arc::clone(termination), modern: config(&TLS13, &shared)?, legacy })
    }

    /// Whether it was made of an equal one.
    pub(super) fn is_of(&self, termination: &Arc<Termination>) -> bool {
        Arc::ptr_eq(&self.termination, termination) || self.termination == *termination
    }

    /// The configuration for a client, if there is any.
    fn config(&self, offers_tls13: bool) -> Option<Arc<ServerConfig>> {
        let (first, second) = if offers_tls13 { (&self.modern, &self.legacy) } else { (&self.legacy, &self.modern) };
        // Where there is one alone it refuses the others, with the alert that says why.
        first.as_ref().or(second.as_ref()).map(Arc::clone)
    }
}

/// What handshakes of one version are made with: the cipher suites that the listener admits.
fn provider(termination: &Termination, version: &SupportedProtocolVersion) -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.retain(|suite| {
        let is_admitted = termination.ciphers.is_empty() || termination.ciphers.contains(&suite.suite());
        is_admitted && suite.version().version == version.version
    });
    provider
}

fn config(
    termination: &Termination,
    version: &'static SupportedProtocolVersion,
    (provider, alpn): (CryptoProvider, &[&[u8]]),
    tickets: Tickets,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version])?;
    let verifier = clients::verifier(&termination.clients, provider)?;
    let resolver = Resolver::new(&termination.certificates);
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = Arc::new(tickets);
    // What a worker stored another one would not find.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// SHA-256 over several texts, each with its length before it.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
