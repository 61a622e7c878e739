//! HTTPS listeners: handshakes with real clients, and what must hold under TLS as it does in clear text.
use std::{process::Command, sync::Arc, time::Duration};

use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring::default_provider},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use sluice::proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{Bed, Origin, SOON, catch_all, header, status, until};

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A self-signed certificate, ECDSA.
pub(crate) fn made(names: &[&str]) -> Made {
    made_of(names, |_| ())
}

/// The same, with something changed.
pub(crate) fn made_of(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Made {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    change(&mut params);
    Made { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// The same, RSA: the library that makes the others has none.
fn made_rsa(name: &str) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let [certificate, key] = ["crt", "key"].map(|file| dir.path().join(file));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"])
        .args(["-addext", &format!("subjectAltName=DNS:{name}"), "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out", certificate.to_str().unwrap(), "-keyout", key.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |path| std::fs::read_to_string(path).unwrap();
    Made { certificate: read(certificate), key: read(key) }
}

pub(crate) fn secret(name: &str, made: &Made) -> Value {
    json!({"metadata": {"name": name}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": made.certificate, "tls.key": made.key}})
}

/// A listener with this host name, or all, and these Secrets.
pub(crate) fn listener(name: &str, hostname: Option<&str>, secrets: &[&str]) -> Value {
    let refs: Vec<Value> = secrets.iter().map(|secret| json!({"name": secret})).collect();
    json!({"name": name, "protocol": "HTTPS", "hostname": hostname, "tls": {"certificateRefs": refs}})
}

/// A client that trusts these.
pub(crate) fn trusting(made: &[&Made]) -> ClientConfig {
    configured(made, &[&TLS13, &TLS12], default_provider())
}

fn configured(made: &[&Made], versions: &[&'static SupportedProtocolVersion], with: CryptoProvider) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for made in made {
        roots.add(CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(with))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) async fn handshake(
    bed: &Bed,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(bed.addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let made = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
    tokio::time::timeout(SOON, made).await.expect("the handshake stays open")
}

/// Sends bytes and reads to the end.
pub(crate) async fn said(stream: &mut TlsStream<TcpStream>, bytes: impl AsRef<[u8]>) -> String {
    stream.write_all(bytes.as_ref()).await.unwrap();
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    let _ = tokio::time::timeout(SOON, read).await.expect("the connection stays open");
    String::from_utf8_lossy(&all).into_owned()
}

/// A closing GET.
pub(crate) async fn get(stream: &mut TlsStream<TcpStream>, host: &str) -> String {
    said(stream, format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
}

/// One response of a connection that stays open.
async fn asked(stream: &mut TlsStream<TcpStream>, host: &str) -> String {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\na") {
        let n = tokio::time::timeout(SOON, stream.read_buf(&mut got)).await.expect("no response").unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&got));
    }
    String::from_utf8_lossy(&got).into_owned()
}

/// The alert that a handshake ended with.
pub(crate) fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// One HTTPS listener for every host, in front of backend `a`.
pub(crate) async fn simple(settings: Settings, made: &Made) -> (Bed, Origin) {
    let backend = Origin::named("a").await;
    let bed = Bed::secured(
        1,
        settings,
        json!([secret("cert", made)]),
        json!([listener("web", None, &["cert"])]),
        json!([catch_all()]),
        &[("a", &[backend.addr])],
    )
    .await;
    (bed, backend)
}

#[tokio::test]
async fn both_versions_are_terminated_and_the_backend_hears_of_it() {
    let made = made(&["a.example"]);
    let (bed, mut backend) = simple(Settings::default(), &made).await;
    for version in [&TLS12, &TLS13] {
        let mut config = configured(&[&made], &[version], default_provider());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut client = handshake(&bed, &Arc::new(config), "a.example").await.unwrap();
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let response = get(&mut client, "a.example").await;
        assert_eq!(status(&response), 200, "{response}");
        let seen = backend.next().await;
        assert_eq!(header(&seen, "x-forwarded-proto"), Some("https"));
        assert_eq!(header(&seen, "x-forwarded-port"), Some(&*bed.addr.port().to_string()));
    }
    assert_eq!(bed.stats.sum(|s| &s.tls_handshakes), 2);
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_its_scheme_is_https() {
    let made = made(&["a.example"]);
    let (bed, _backend) = simple(Settings::default(), &made).await;
    let mut config = trusting(&[&made]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = handshake(&bed, &Arc::new(config), "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (uri, want) in [("https://a.example/", 200), ("http://a.example/", 400)] {
        let request = http::Request::get(uri).body(String::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), want, "{uri}");
    }
}

#[tokio::test]
async fn the_server_name_chooses_the_listener_with_the_most_specific_host_name() {
    let [exact, wild] = [made(&["a.x.example"]), made(&["*.x.example"])];
    let backend = Origin::named("a").await;
    let bed = Bed::secured(
        1,
        Settings::default(),
        json!([secret("exact", &exact), secret("wild", &wild)]),
        json!([listener("wild", Some("*.x.example"), &["wild"]), listener("exact", Some("a.x.example"), &["exact"])]),
        json!([catch_all()]),
        &[("a", &[backend.addr])],
    )
    .await;
    let config = Arc::new(trusting(&[&exact, &wild]));
    for (name, want) in [("a.x.example", &exact), ("A.X.example", &exact), ("b.x.example", &wild)] {
        let client = handshake(&bed, &config, name).await.unwrap();
        let shown = client.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, CertificateDer::from_pem_slice(want.certificate.as_bytes()).unwrap(), "{name}");
    }
    let mut nameless = trusting(&[&exact, &wild]);
    nameless.enable_sni = false;
    for (config, name) in [(config, "other.example"), (Arc::new(nameless), "a.x.example")] {
        let refused = handshake(&bed, &config, name).await.unwrap_err();
        assert_eq!(alert(&refused), Some(AlertDescription::UnrecognisedName), "{name}: {refused}");
    }
    assert_eq!(bed.stats.sum(|s| &s.tls_unknown_names), 2);
}

#[tokio::test]
async fn without_a_server_name_the_listener_for_all_hosts_serves() {
    let made = made(&["a.example"]);
    let (bed, _backend) = simple(Settings::default(), &made).await;
    let mut config = trusting(&[&made]);
    config.enable_sni = false;
    let mut client = handshake(&bed, &Arc::new(config), "a.example").await.unwrap();
    assert_eq!(status(&get(&mut client, "a.example").await), 200);
}

/// Signatures of this kind alone are taken.
fn taking(is_taken: impl Fn(&str) -> bool) -> CryptoProvider {
    let provider = default_provider();
    let WebPkiSupportedAlgorithms { all, mapping } = provider.signature_verification_algorithms;
    let mapping: Vec<_> =
        mapping.iter().copied().filter(|(scheme, _)| is_taken(scheme.as_str().unwrap_or_default())).collect();
    CryptoProvider {
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all, mapping: mapping.leak() },
        ..provider
    }
}

#[tokio::test]
async fn of_several_certificates_the_one_that_the_client_can_use_is_shown() {
    let (elliptic, rsa, other) = (made(&["a.example"]), made_rsa("a.example"), made(&["b.example"]));
    let backend = Origin::named("a").await;
    let bed = Bed::secured(
        1,
        Settings::default(),
        json!([secret("rsa", &rsa), secret("elliptic", &elliptic), secret("other", &other)]),
        json!([listener("web", None, &["rsa", "elliptic", "other"])]),
        json!([catch_all()]),
        &[("a", &[backend.addr])],
    )
    .await;
    let all = [&elliptic, &rsa, &other];
    for version in [&TLS12, &TLS13] {
        let only_rsa = configured(&all, &[version], taking(|scheme| scheme.starts_with("RSA")));
        let only_ecdsa = configured(&all, &[version], taking(|scheme| scheme.starts_with("ECDSA")));
        let both = configured(&all, &[version], default_provider());
        for (config, name, want) in [
            (&only_rsa, "a.example", &rsa),
            (&only_ecdsa, "a.example", &elliptic),
            (&both, "a.example", &elliptic),
            (&both, "b.example", &other),
        ] {
            let client = handshake(&bed, &Arc::new(config.clone()), name).await.unwrap();
            let shown = client.get_ref().1.peer_certificates().unwrap()[0].clone();
            assert_eq!(
                shown,
                CertificateDer::from_pem_slice(want.certificate.as_bytes()).unwrap(),
                "{version:?} {name}"
            );
        }
    }
}

/// Kinds of `count` handshakes with one client, one after the other, each with a request.
async fn kinds(beds: &[&Bed], mut config: ClientConfig) -> Vec<HandshakeKind> {
    config.resumption = Resumption::in_memory_sessions(16);
    let config = Arc::new(config);
    let mut kinds = Vec::new();
    for bed in beds {
        let mut client = handshake(bed, &config, "a.example").await.unwrap();
        // With the answer come the tickets of TLS 1.3.
        assert_eq!(status(&get(&mut client, "a.example").await), 200);
        kinds.push(client.get_ref().1.handshake_kind().unwrap());
    }
    kinds
}

#[tokio::test]
async fn sessions_go_on_at_every_worker_and_with_tls_13_at_every_node() {
    use HandshakeKind::{Full, Resumed};
    let made = made(&["a.example"]);
    let backend = Origin::named("a").await;
    let bed = async |made: &Made| {
        Bed::secured(
            2,
            Settings::default(),
            json!([secret("cert", made)]),
            json!([listener("web", None, &["cert"])]),
            json!([catch_all()]),
            &[("a", &[backend.addr])],
        )
        .await
    };
    let (here, there) = (bed(&made).await, bed(&made).await);
    for version in [&TLS12, &TLS13] {
        let many = kinds(&[&here; 12], configured(&[&made], &[version], default_provider())).await;
        assert_eq!(many[0], Full);
        assert!(many[1..].iter().all(|kind| *kind == Resumed), "{version:?}: {many:?}");
    }
    assert!(here.stats.each(|s| &s.tls_handshakes).iter().all(|made| *made > 0), "both workers were met");
    assert_eq!(here.stats.sum(|s| &s.tls_resumed), 22);
    let abroad = kinds(&[&here, &there], configured(&[&made], &[&TLS13], default_provider())).await;
    assert_eq!(abroad, [Full, Resumed]);
    // A ticket of TLS 1.2 holds the session's secret: see `proxy/tls/tickets.rs`.
    let abroad = kinds(&[&here, &there], configured(&[&made], &[&TLS12], default_provider())).await;
    assert_eq!(abroad, [Full, Full]);
}

#[tokio::test]
async fn a_certificate_is_exchanged_without_touching_a_connection() {
    let (old, new) = (made(&["a.example"]), made(&["a.example"]));
    let (mut bed, backend) = simple(Settings::default(), &old).await;
    let config = Arc::new(trusting(&[&old, &new]));
    let mut open = handshake(&bed, &config, "a.example").await.unwrap();
    assert!(asked(&mut open, "a.example").await.ends_with('a'));
    let listeners = json!([listener("web", None, &["cert"])]);
    bed.exchange(json!([secret("cert", &new)]), listeners, json!([catch_all()]), &[("a", &[backend.addr])]).await;
    assert!(asked(&mut open, "a.example").await.ends_with('a'), "the open connection goes on");
    let mut next = handshake(&bed, &config, "a.example").await.unwrap();
    assert_eq!(next.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "the old key's ticket is not taken");
    let shown = next.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown, CertificateDer::from_pem_slice(new.certificate.as_bytes()).unwrap());
    assert!(asked(&mut next, "a.example").await.ends_with('a'));
}

#[tokio::test]
async fn certificates_are_exchanged_under_new_and_resumed_handshakes_without_a_failure() {
    let pairs = [made(&["a.example"]), made(&["a.example"])];
    let (mut bed, backend) = simple(Settings::default(), &pairs[0]).await;
    let config = Arc::new(trusting(&[&pairs[0], &pairs[1]]));
    for round in 0..20 {
        let next = &pairs[(round + 1) % 2];
        let listeners = json!([listener("web", None, &["cert"])]);
        let mut open = Vec::new();
        // The first has a ticket of the certificate before; its answer brings one of this.
        for _ in 0..3 {
            let mut client = handshake(&bed, &config, "a.example").await.unwrap();
            assert!(asked(&mut client, "a.example").await.ends_with('a'));
            open.push(client);
        }
        let (secrets, backends) = (json!([secret("cert", next)]), [("a", &[backend.addr][..])]);
        bed.exchange(secrets, listeners, json!([catch_all()]), &backends).await;
        for client in &mut open {
            assert!(asked(client, "a.example").await.ends_with('a'));
        }
    }
    assert_eq!(bed.stats.sum(|s| &s.tls_failures), 0);
    assert_eq!(bed.stats.sum(|s| &s.tls_resumed), 40);
}

#[tokio::test]
async fn a_route_that_changes_keeps_the_sessions() {
    let made = made(&["a.example"]);
    let (bed, backend) = simple(Settings::default(), &made).await;
    let config = Arc::new(configured(&[&made], &[&TLS12], default_provider()));
    get(&mut handshake(&bed, &config, "a.example").await.unwrap(), "a.example").await;
    let mut other = catch_all();
    other["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
    bed.serve(json!([listener("web", None, &["cert"])]), json!([other]), &[("a", &[backend.addr])]).await;
    let client = handshake(&bed, &config, "a.example").await.unwrap();
    assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

/// The pairs of the upstream suite. Source: gateway-api, HTTPRouteHTTPSListenerDetectMisdirectedRequests.
#[tokio::test]
async fn a_request_for_another_listener_than_that_of_the_handshake_is_misdirected() {
    let made = made(&["first.example", "second.org", "*.wild.org", "unknown.org"]);
    let backend = Origin::named("a").await;
    let bed = Bed::secured(
        1,
        Settings::default(),
        json!([secret("cert", &made)]),
        json!([
            listener("any", None, &["cert"]),
            listener("second", Some("second.org"), &["cert"]),
            listener("wild", Some("*.wild.org"), &["cert"]),
            listener("fourth", Some("fourth.wild.org"), &["cert"]),
        ]),
        json!([
            {"metadata": {"name": "any"}, "spec": {"parentRefs": [{"name": "gw", "sectionName": "any"}],
                "hostnames": ["first.example"], "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}},
            {"metadata": {"name": "others"}, "spec": {"parentRefs": [{"name": "gw", "sectionName": "second"},
                {"name": "gw", "sectionName": "wild"}, {"name": "gw", "sectionName": "fourth"}],
                "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}},
        ]),
        &[("a", &[backend.addr])],
    )
    .await;
    let config = Arc::new(trusting(&[&made]));
    for (name, host, want) in [
        ("first.example", "first.example", 200),
        ("first.example", "second.org", 421),
        ("first.example", "unknown.org", 404),
        ("second.org", "second.org", 200),
        ("second.org", "first.example", 421),
        ("second.org", "unknown.org", 421),
        ("third.wild.org", "fifth.wild.org", 200),
        ("third.wild.org", "fourth.wild.org", 421),
        ("fourth.wild.org", "fourth.wild.org", 200),
        ("fourth.wild.org", "fifth.wild.org", 421),
        ("unknown.org", "first.example", 200),
        ("unknown.org", "unknown.org", 404),
    ] {
        let mut client = handshake(&bed, &config, name).await.unwrap();
        let response = get(&mut client, host).await;
        assert_eq!(status(&response), want, "server name {name}, host {host}: {response}");
    }
    assert_eq!(bed.stats.sum(|s| &s.misdirected), 5);
}

#[tokio::test]
async fn a_redirect_keeps_scheme_and_port_of_the_listener() {
    let made = made(&["a.example"]);
    let bed = Bed::secured(
        1,
        Settings::default(),
        json!([secret("cert", &made)]),
        json!([listener("web", None, &["cert"])]),
        json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [{"filters": [
            {"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/b"}}}]}]}}]),
        &[],
    )
    .await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&made])), "a.example").await.unwrap();
    let response = get(&mut client, "a.example").await;
    assert_eq!(header(&response, "location"), Some(&*format!("https://a.example:{}/b", bed.addr.port())));
}

#[tokio::test]
async fn h52_a_handshake_that_takes_too_long_is_closed() {
    let made = made(&["a.example"]);
    let settings = Settings { handshake_timeout: Duration::from_millis(300), ..Settings::default() };
    let (bed, _backend) = simple(settings, &made).await;
    // The head of a record, and of a ClientHello of 512 bytes.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = bed.connect().await;
        client.send(begun).await;
        assert_eq!(client.rest().await, "");
    }
    // A ClientHello, and then nothing.
    let config = Arc::new(trusting(&[&made]));
    let name = ServerName::try_from("a.example").unwrap();
    let mut session = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let mut client = bed.connect().await;
    client.send(hello).await;
    assert_ne!(client.rest().await, "", "a ServerHello, then the end");
    assert_eq!(bed.stats.sum(|s| &s.tls_timeouts), 3);
}

#[tokio::test]
async fn at_the_bound_of_handshakes_the_oldest_gives_way() {
    let made = made(&["a.example"]);
    let (bed, _backend) = simple(Settings { max_handshakes: 4, ..Settings::default() }, &made).await;
    let mut silent = Vec::new();
    for number in 1..=4 {
        silent.push(bed.connect().await);
        until("accepted", || bed.stats.sum(|s| &s.accepted) == number).await;
    }
    let config = Arc::new(trusting(&[&made]));
    let mut client = handshake(&bed, &config, "a.example").await.unwrap();
    assert_eq!(status(&get(&mut client, "a.example").await), 200);
    assert_eq!(silent.remove(0).rest().await, "", "the oldest was ended");
    assert_eq!(bed.stats.sum(|s| &s.tls_evicted), 1);
}

#[tokio::test]
async fn what_is_no_client_hello_is_refused() {
    let made = made(&["a.example"]);
    let (bed, mut backend) = simple(Settings::default(), &made).await;
    let large = [&b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"[..], &[0; 0x3ffc]].concat();
    let records = [&large[..], &large, &large].concat();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], b"\x16\x03\x01\x00\x00", &[0xff; 2000], &records] {
        let mut client = bed.connect().await;
        let _ = client.stream.write_all(bytes).await;
        let rest = client.rest().await;
        assert!(!rest.contains("HTTP"), "{rest:?}");
    }
    assert!(backend.untouched());
    // The client may see the end before it is counted.
    until("all are counted", || bed.stats.sum(|s| &s.tls_failures) == 4).await;
}

/// What a listener's options say holds on the wire.
#[tokio::test]
async fn the_oldest_version_and_the_cipher_suites_are_those_of_the_options() {
    let made = made(&["a.example"]);
    let backend = Origin::named("a").await;
    let dialled = async |options: Value, version: &'static SupportedProtocolVersion| {
        let mut listener = listener("web", None, &["cert"]);
        listener["tls"]["options"] = options;
        let objects = (json!([secret("cert", &made)]), json!([listener]), json!([catch_all()]));
        let backends = [("a", &[backend.addr][..])];
        let bed = Bed::secured(1, Settings::default(), objects.0, objects.1, objects.2, &backends).await;
        let config = Arc::new(configured(&[&made], &[version], default_provider()));
        let made = handshake(&bed, &config, "a.example").await;
        made.map(|stream| stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()).map_err(|error| alert(&error))
    };
    let modern = || json!({"sluice.dev/min-version": "1.3"});
    assert_eq!(dialled(modern(), &TLS12).await, Err(Some(AlertDescription::ProtocolVersion)));
    assert!(dialled(modern(), &TLS13).await.is_ok());
    let legacy = || json!({"sluice.dev/cipher-suites": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"});
    let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    assert_eq!(dialled(legacy(), &TLS12).await, Ok(suite));
    // Without one of TLS 1.3 that is not spoken.
    assert_eq!(dialled(legacy(), &TLS13).await, Err(Some(AlertDescription::ProtocolVersion)));
    let one = || json!({"sluice.dev/cipher-suites": "TLS_CHACHA20_POLY1305_SHA256"});
    assert_eq!(dialled(one(), &TLS13).await, Ok(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256));
}

/// An independent client, with the oldest version that is spoken, and one before it.
#[test]
fn openssl_agrees_and_old_versions_are_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let made = made_rsa("a.example");
    let (bed, _backend) = runtime.block_on(simple(Settings::default(), &made));
    let at = bed.addr.to_string();
    let s_client = |version: &str| {
        let out = Command::new("openssl")
            .args(["s_client", "-connect", &at, "-servername", "a.example", version, "-brief"])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    assert!(s_client("-tls1_3").contains("Protocol version: TLSv1.3"));
    assert!(s_client("-tls1_2").contains("Protocol version: TLSv1.2"));
    let old = s_client("-tls1_1");
    assert!(!old.contains("Protocol version"), "{old}");
}
