//! A backend that speaks TLS, and tells what it was asked under which name.
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    harness::{SOON, header},
    tls::{Made, made_of},
    websocket::accept,
};

/// One request, or one stream of HTTP/2.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The server name of the handshake.
    pub sni: Option<String>,
    /// The protocol that was agreed upon.
    pub alpn: Option<String>,
    /// The client's certificate.
    pub certificate: Option<Vec<u8>>,
    /// The head of an HTTP/1.1 request, or method and target.
    pub head: String,
}

/// The backend.
pub(crate) struct TlsOrigin {
    pub addr: SocketAddr,
    pub seen: mpsc::UnboundedReceiver<Seen>,
    /// Handshakes that were made.
    pub handshakes: Arc<AtomicUsize>,
    /// What it speaks now.
    speaks: watch::Sender<Speaks>,
    /// Its certificate, without a protocol.
    config: ServerConfig,
}

/// What a backend speaks.
#[derive(Clone)]
struct Speaks {
    config: Arc<ServerConfig>,
    /// Extended CONNECT over HTTP/2.
    connects: bool,
}

impl TlsOrigin {
    /// Answers every request with `tls`, of HTTP/1.1 or HTTP/2 as ALPN says.
    pub(crate) async fn start(made: &Made) -> Self {
        Self::with(made, &[b"h2", b"http/1.1"], None).await
    }

    /// `clients`: who must have signed clients' certificates.
    pub(crate) async fn with(made: &Made, alpn: &[&[u8]], clients: Option<&Made>) -> Self {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(made) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()).unwrap();
                let verifier: Arc<dyn ClientCertVerifier> =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        let config = builder.with_single_cert(chain, key).unwrap();
        let (speaks, current) = watch::channel(Speaks { config: speaking(&config, alpn), connects: false });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let handshakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handshakes);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (mut current, sender, count) = (current.clone(), sender.clone(), Arc::clone(&count));
                let Speaks { config, connects } = current.borrow_and_update().clone();
                let serve = async move {
                    let Ok(stream) = TlsAcceptor::from(config).accept(tcp).await else { return };
                    count.fetch_add(1, Relaxed);
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        http2(stream, sender, connects).await;
                    } else {
                        http1(stream, sender).await;
                    }
                };
                tokio::spawn(async move {
                    tokio::select! { () = serve => {}, _ = current.changed() => {} }
                });
            }
        });
        Self { addr, seen, handshakes, speaks, config }
    }

    /// Ends all connections, and speaks this from now on; `connects`: extended CONNECT as well.
    pub(crate) fn restart(&self, alpn: &[&[u8]], connects: bool) {
        self.speaks.send_replace(Speaks { config: speaking(&self.config, alpn), connects });
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Seen {
        tokio::time::timeout(SOON, self.seen.recv()).await.expect("nothing came").unwrap()
    }

    /// Whether no request came so far.
    pub(crate) fn untouched(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Relaxed)
    }
}

fn speaking(config: &ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

fn seen<T>(stream: &TlsStream<T>, head: String) -> Seen {
    let (_, session) = stream.get_ref();
    Seen {
        sni: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
        certificate: session.peer_certificates().map(|chain| chain[0].to_vec()),
        head,
    }
}

async fn http1(mut stream: TlsStream<tokio::net::TcpStream>, sender: mpsc::UnboundedSender<Seen>) {
    let mut got = Vec::new();
    loop {
        let Some(end) = got.windows(4).position(|window| window == b"\r\n\r\n") else {
            match stream.read_buf(&mut got).await {
                Ok(n) if n > 0 => continue,
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&got[..end]).into_owned();
        got.drain(..end + 4);
        let key = header(&head, "sec-websocket-key").map(str::to_owned);
        let _ = sender.send(seen(&stream, head));
        if let Some(key) = key {
            let fields = format!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}", accept(&key));
            stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n").as_bytes()).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
            return;
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntls").await.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
}

async fn http2(stream: TlsStream<tokio::net::TcpStream>, sender: mpsc::UnboundedSender<Seen>, connects: bool) {
    let first = seen(&stream, String::new());
    let mut builder = h2::server::Builder::new();
    if connects {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let head = format!("{} {}", request.method(), request.uri());
        let Seen { sni, alpn, certificate, .. } = &first;
        let (sni, alpn, certificate) = (sni.clone(), alpn.clone(), certificate.clone());
        let _ = sender.send(Seen { sni, alpn, certificate, head });
        let mut head = http::Response::new(());
        if request.method() == http::Method::CONNECT {
            let body = respond.send_response(head, false).unwrap();
            tokio::spawn(echo(request.into_body(), body));
            continue;
        }
        head.headers_mut().insert("content-length", http::HeaderValue::from(3));
        let mut body = respond.send_response(head, false).unwrap();
        let _ = body.send_data(bytes::Bytes::from_static(b"tls"), true);
    }
}

async fn echo(mut from: h2::RecvStream, mut to: h2::SendStream<bytes::Bytes>) {
    while let Some(Ok(data)) = from.data().await {
        from.flow_control().release_capacity(data.len()).unwrap();
        to.send_data(data, false).unwrap();
    }
    let _ = to.send_data(bytes::Bytes::new(), true);
}

/// A self-signed certificate with this identity of SPIFFE beside its name.
pub(crate) fn made_with_uri(name: &str, uri: &str) -> Made {
    made_of(&[name], |params| {
        params.subject_alt_names.push(rcgen::SanType::URI(uri.to_owned().try_into().unwrap()));
    })
}

/// One that is no longer valid.
pub(crate) fn expired(name: &str) -> Made {
    made_of(&[name], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    })
}
