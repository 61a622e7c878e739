//! TLS in the lab: a certificate with the Secret that holds it, and clients that trust it.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, HandshakeKind, RootCertStore,
        client::Resumption,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

/// How long a visit may take.
const LIMIT: Duration = Duration::from_secs(20);

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
        let mut config = trusting(std::slice::from_ref(self))?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tcp = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).context("a host's name")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS handshake")?;
        let chosen = stream.get_ref().1.alpn_protocol();
        anyhow::ensure!(chosen == Some(alpn.as_bytes()), "{chosen:?} was chosen, want {alpn}");
        Ok(stream)
    }

    /// Whether it is this one that a server has shown, DER.
    #[must_use]
    pub fn is(&self, shown: &[u8]) -> bool {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).is_ok_and(|own| *own == *shown)
    }
}

fn trusting(certificates: &[Certificate]) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(CertificateDer::from_pem_slice(certificate.pem.as_bytes()).context("read a certificate")?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// A client that comes again and again, each time with a connection of its own.
#[derive(Debug)]
pub struct Visitor {
    host: String,
    config: Arc<ClientConfig>,
}

/// What it met.
#[derive(Debug)]
pub struct Visit {
    /// The session of an earlier visit went on.
    pub resumed: bool,
    /// The server's certificate, DER.
    pub shown: Vec<u8>,
    /// The status of the answer.
    pub status: u16,
}

impl Visitor {
    /// One that trusts these certificates, all of one host, and remembers its sessions or does not.
    ///
    /// # Panics
    /// There is no certificate.
    #[must_use]
    pub fn new(certificates: &[Certificate], remembers: bool) -> Self {
        let mut config = trusting(certificates).expect("certificates");
        if !remembers {
            config.resumption = Resumption::disabled();
        }
        Self { host: certificates[0].host.clone(), config: Arc::new(config) }
    }

    /// Connects, asks for `/` in HTTP/1.1, and reads the answer until the server has ended TLS in order.
    ///
    /// # Errors
    /// Nobody answers, or not with one of the certificates, or not to the end.
    pub async fn visit(&self, to: SocketAddr) -> anyhow::Result<Visit> {
        let whole = async {
            let tcp = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(self.host.clone()).context("a host's name")?;
            let connector = TlsConnector::from(Arc::clone(&self.config));
            let mut stream = connector.connect(name, tcp).await.context("TLS handshake")?;
            let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.host);
            stream.write_all(request.as_bytes()).await.context("ask")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.context("read the answer")?;
            let tls = stream.get_ref().1;
            let shown = tls.peer_certificates().and_then(|all| all.first()).context("no certificate")?.to_vec();
            let head = String::from_utf8_lossy(&answer);
            let status = head.split_whitespace().nth(1).context("no answer")?.parse()?;
            Ok(Visit { resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed), shown, status })
        };
        tokio::time::timeout(LIMIT, whole).await.context("no answer in time")?
    }
}
