//! TLS listeners: streams that are passed through, or terminated to TCP, by the server name of the ClientHello.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConnection, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use sluice::proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, client::TlsStream};

use crate::{
    harness::{Bed, Client, Origin, SOON, catch_all, refusing, status, until},
    tls::{Made, get, handshake, listener, made, secret, trusting},
};

/// A TLS listener, that passes through where it has no Secret.
fn tls(name: &str, hostname: Option<&str>, secrets: &[&str]) -> Value {
    let mut listener = listener(name, hostname, secrets);
    listener["protocol"] = json!("TLS");
    if secrets.is_empty() {
        listener["tls"] = json!({"mode": "Passthrough"});
    }
    listener
}

/// A TLSRoute of these names to a Service, of which the one with the lesser age is older.
fn route(name: &str, age: u32, hostnames: &[&str], service: &str) -> Value {
    json!({"kind": "TLSRoute", "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
        "spec": {"parentRefs": [{"name": "gw"}], "hostnames": hostnames,
            "rules": [{"backendRefs": [{"name": service, "port": 80}]}]}})
}

async fn bed(secrets: Value, listeners: Value, routes: Value, backends: &[(&str, &[SocketAddr])]) -> Bed {
    Bed::secured(1, Settings::default(), secrets, listeners, routes, backends).await
}

/// A server that terminates TLS itself: says its name, then sends back what it gets, to the end, and then `bye`.
async fn secured(name: &'static str, made: &Made) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = server.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                let _ = stream.write_all(name.as_bytes()).await;
                let mut got = Vec::new();
                let _ = stream.read_to_end(&mut got).await;
                let _ = stream.write_all(&got).await;
                let _ = stream.write_all(b"bye").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    addr
}

/// Says something, closes for writing, and reads to the end.
async fn talk(stream: &mut TlsStream<TcpStream>, words: &str) -> String {
    stream.write_all(words.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("it stays open");
    String::from_utf8_lossy(&all).into_owned()
}

/// The first flight of a client.
fn hello(name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(trusting(&[])), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_stream_is_passed_through_with_half_close_both_ways() {
    let server = made(&["a.example"]);
    let backend = secured("a:", &server).await;
    let bed =
        bed(json!([]), json!([tls("p", None, &[])]), json!([route("r", 0, &["a.example"], "a")]), &[("a", &[backend])])
            .await;
    let config = Arc::new(trusting(&[&server]));
    for length in [0, 10, 300_000] {
        let mut client = handshake(&bed, &config, "a.example").await.unwrap();
        let words = "x".repeat(length);
        assert_eq!(talk(&mut client, &words).await, format!("a:{words}bye"), "{length}");
    }
    until("the streams end", || bed.stats.sum(|s| &s.streams) == 0).await;
    assert_eq!(bed.stats.sum(|s| &s.tls_handshakes), 0, "none was ours");
}

#[tokio::test]
async fn the_most_specific_name_decides_and_of_equals_the_older_route() {
    let server = made(&["one.x.example", "two.x.example", "y.example"]);
    let [exact, wild, newer, any] = [
        secured("exact", &server).await,
        secured("wild", &server).await,
        secured("newer", &server).await,
        secured("any", &server).await,
    ];
    let bed = bed(
        json!([]),
        json!([tls("x", Some("*.x.example"), &[]), tls("all", None, &[])]),
        json!([
            route("newer", 9, &["one.x.example"], "newer"),
            route("wild", 0, &["*.x.example"], "wild"),
            route("exact", 5, &["one.x.example"], "exact"),
            route("any", 1, &["y.example"], "any"),
        ]),
        &[("exact", &[exact]), ("wild", &[wild]), ("newer", &[newer]), ("any", &[any])],
    )
    .await;
    let config = Arc::new(trusting(&[&server]));
    for (name, want) in [("one.x.example", "exactbye"), ("two.x.example", "wildbye"), ("y.example", "anybye")] {
        let mut client = handshake(&bed, &config, name).await.unwrap();
        assert_eq!(talk(&mut client, "").await, want, "{name}");
    }
}

/// Source: gateway-api, TLSRouteInvalidBackendRefNonexistent and kin: an alert fails the test there.
#[tokio::test]
async fn who_has_no_route_or_no_backend_sees_the_end_and_no_alert() {
    let certificate = made(&["t.example"]);
    let dead = refusing();
    let bed = bed(
        json!([secret("cert", &certificate)]),
        json!([tls("p", Some("*.example"), &[]), tls("t", Some("t.example"), &["cert"])]),
        json!([
            route("absent", 0, &["absent.example"], "absent"),
            route("empty", 0, &["empty.example"], "empty"),
            route("dead", 0, &["dead.example"], "dead"),
            route("terminated", 0, &["t.example"], "dead"),
        ]),
        &[("empty", &[]), ("dead", &[dead])],
    )
    .await;
    for name in ["no-route.example", "absent.example", "empty.example", "dead.example", "t.example", "no.listener"] {
        let mut client = bed.connect().await;
        client.send(hello(name)).await;
        assert_eq!(client.rest().await, "", "{name}");
    }
    // The client may see the end before it is counted.
    until("all are counted", || bed.stats.sum(|s| &s.tls_failures) == 6).await;
}

#[tokio::test]
async fn a_terminated_stream_is_clear_text_for_its_backend_whatever_protocol_is_offered() {
    let certificate = made(&["t.example"]);
    let backend = Origin::start(|mut client: Client, seen| async move {
        // The server speaks first.
        client.send("hello ").await;
        let said = client.rest().await;
        let _ = seen.send(said.clone());
        client.send(said.to_uppercase()).await;
    });
    let mut backend = backend.await;
    let bed = bed(
        json!([secret("cert", &certificate)]),
        json!([tls("t", Some("t.example"), &["cert"])]),
        json!([route("r", 0, &["t.example"], "a")]),
        &[("a", &[backend.addr])],
    )
    .await;
    let mut config = trusting(&[&certificate]);
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let mut client = handshake(&bed, &Arc::new(config), "t.example").await.unwrap();
    assert_eq!(talk(&mut client, "words").await, "hello WORDS");
    assert_eq!(backend.next().await, "words");
    assert_eq!(bed.stats.sum(|s| &s.tls_handshakes), 1);
}

#[tokio::test]
async fn https_terminated_and_passed_through_are_on_one_port() {
    let (ours, theirs) = (made(&["h.example", "t.example"]), made(&["p.example"]));
    let http = Origin::named("http").await;
    let stream = Origin::answering("stream", true).await;
    let passed = secured("passed", &theirs).await;
    let mut web = catch_all();
    web["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("http");
    let bed = bed(
        json!([secret("cert", &ours)]),
        json!([
            listener("h", Some("h.example"), &["cert"]),
            tls("t", Some("t.example"), &["cert"]),
            tls("p", Some("p.example"), &[])
        ]),
        json!([web, route("t", 0, &["t.example"], "stream"), route("p", 0, &["p.example"], "passed")]),
        &[("http", &[http.addr]), ("stream", &[stream.addr]), ("passed", &[passed])],
    )
    .await;
    let config = Arc::new(trusting(&[&ours, &theirs]));
    let mut client = handshake(&bed, &config, "h.example").await.unwrap();
    assert_eq!(status(&get(&mut client, "h.example").await), 200);
    let mut client = handshake(&bed, &config, "h.example").await.unwrap();
    assert_eq!(status(&get(&mut client, "t.example").await), 421, "another listener's host");
    let mut client = handshake(&bed, &config, "t.example").await.unwrap();
    assert!(get(&mut client, "t.example").await.ends_with("stream"));
    let mut client = handshake(&bed, &config, "p.example").await.unwrap();
    assert_eq!(talk(&mut client, "").await, "passedbye");
}

#[tokio::test]
async fn a_client_that_resets_ends_the_stream() {
    let server = made(&["a.example"]);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let backend = Origin::start(move |mut client: Client, _| {
        let ended = ended.clone();
        async move {
            client.rest().await;
            let _ = ended.send(());
        }
    });
    let backend = backend.await;
    let bed = bed(
        json!([]),
        json!([tls("p", None, &[])]),
        json!([route("r", 0, &["a.example"], "a")]),
        &[("a", &[backend.addr])],
    )
    .await;
    let mut client = bed.connect().await;
    client.send(hello("a.example")).await;
    until("it is relayed", || bed.stats.sum(|s| &s.streams) == 1).await;
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    tokio::time::timeout(SOON, ends.recv()).await.expect("the backend's connection stays open");
    until("it ends", || bed.stats.sum(|s| &s.streams) == 0 && bed.stats.sum(|s| &s.active_connections) == 0).await;
    drop(server);
}
