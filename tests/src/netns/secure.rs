//! TLS in the lab: a certificate with the Secret that holds it, and clients that trust it.
use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

/// A certificate that signs itself.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The host that it is for.
    pub host: String,
    /// It alone, PEM: the authority that clients trust.
    pub pem: String,
    key: String,
}

impl Certificate {
    /// A new one for a host.
    ///
    /// # Panics
    /// The host is no name.
    #[must_use]
    pub fn new(host: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
        Self { host: host.to_owned(), pem: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// The Secret with it and its key.
    #[must_use]
    pub fn secret(&self, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": "default"},
            "stringData": {"tls.crt": self.pem, "tls.key": self.key}})
    }

    /// Connects to `to` as a client that trusts it and asks for its host, and for `alpn` alone.
    ///
    /// # Errors
    /// Nobody answers, or not with this certificate, or not in this protocol.
    pub async fn connect(&self, to: SocketAddr, alpn: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).context("read a certificate")?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tcp = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).context("a host's name")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS handshake")?;
        let chosen = stream.get_ref().1.alpn_protocol();
        anyhow::ensure!(chosen == Some(alpn.as_bytes()), "{chosen:?} was chosen, want {alpn}");
        Ok(stream)
    }
}
