//! Endpoints that are told who their clients are: the PROXY protocol towards backends.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use serde_json::json;
use sluice::proxy::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    backend_tls::{authority, policy_for},
    harness::{Bed, Client, Origin, SOON, any_listener, header, limited, refusing, status, until},
    http2::{connect, get, text},
    http2_origin::Http2Origin,
    tls::{handshake, listener, made, secret, trusting},
    tls_origin::TlsOrigin,
    websocket::ask_and_echo,
};

/// What a connection to it begins with, and then is passed on to an origin.
struct Told {
    addr: SocketAddr,
    heads: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Told {
    async fn before(origin: SocketAddr) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let (sender, heads) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = socket.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let Some(head) = read(&mut from).await else { return };
                    let _ = sender.send(head);
                    let mut to = TcpStream::connect(origin).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { addr, heads }
    }

    /// The head of the next connection.
    async fn next(&mut self) -> Vec<u8> {
        tokio::time::timeout(SOON, self.heads.recv()).await.expect("nobody connected").unwrap()
    }

    /// Nobody connected since.
    fn untouched(&mut self) -> bool {
        self.heads.try_recv().is_err()
    }
}

/// Reads a head of either version, and no byte more.
async fn read(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = vec![0; 12];
    from.read_exact(&mut head).await.ok()?;
    if head == b"\r\n\r\n\0\r\nQUIT\n" {
        head.resize(16, 0);
        from.read_exact(&mut head[12..]).await.ok()?;
        head.resize(16 + usize::from(u16::from_be_bytes([head[14], head[15]])), 0);
        from.read_exact(&mut head[16..]).await.ok()?;
    } else {
        while !head.ends_with(b"\r\n") {
            head.push(from.read_u8().await.ok()?);
        }
    }
    Some(head)
}

/// What the two versions say of these ends. Source: the PROXY protocol, parts 2.1 and 2.2.
fn want(version: &str, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    if version == "v1" {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (client.ip(), local.ip());
        return format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port()).into_bytes();
    }
    let mut head = vec![0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21];
    let of = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    head.extend(if client.is_ipv4() { [0x11, 0x00, 0x0c] } else { [0x21, 0x00, 0x24] });
    head.extend([of(client.ip()), of(local.ip())].concat());
    head.extend(client.port().to_be_bytes());
    head.extend(local.port().to_be_bytes());
    head
}

fn route(service: &str) -> serde_json::Value {
    json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": service, "port": 80}]}]}}])
}

async fn bed(service: &str, backends: &[SocketAddr]) -> Bed {
    Bed::new(any_listener(), route(service), &[(service, backends)]).await
}

async fn ask(client: &mut Client) -> SocketAddr {
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(client.response().await.ends_with('a'));
    client.stream.local_addr().unwrap()
}

#[tokio::test]
async fn each_client_has_connections_of_its_own_that_begin_with_who_it_is() {
    for version in ["v1", "v2"] {
        let origin = Origin::named("a").await;
        let mut told = Told::before(origin.addr).await;
        let bed = bed(&format!("a-{version}"), &[told.addr]).await;
        let (mut one, mut other) = (bed.connect().await, bed.connect().await);
        for client in [&mut one, &mut other] {
            let addr = ask(client).await;
            assert_eq!(told.next().await, want(version, addr, bed.addr), "{version}");
        }
        for _ in 0..3 {
            ask(&mut one).await;
            ask(&mut other).await;
        }
        assert!(told.untouched(), "{version}: each keeps its connection");
        assert_eq!(bed.stats.sum(|stats| &stats.open_upstream), 2);
        // They are closed with their client; a new one, though of the same address, has none of them.
        drop(one);
        until("its connection is closed", || bed.stats.sum(|stats| &stats.open_upstream) == 1).await;
        drop(other);
        until("both are", || bed.stats.sum(|stats| &stats.open_upstream) == 0).await;
        let mut next = bed.connect().await;
        let addr = ask(&mut next).await;
        assert_eq!(told.next().await, want(version, addr, bed.addr));
    }
}

#[tokio::test]
async fn addresses_of_ipv6_and_of_both_families_are_told_as_ipv6() {
    for version in ["v1", "v2"] {
        let origin = Origin::named("a").await;
        let mut told = Told::before(origin.addr).await;
        let bed = bed(&format!("a-{version}"), &[told.addr]).await;
        let at = SocketAddr::from((Ipv6Addr::LOCALHOST, bed.addr.port()));
        bed.serve_other(at).await;
        let mut client = Client::connect(at).await;
        let addr = ask(&mut client).await;
        assert_eq!(told.next().await, want(version, addr, at), "{version}");
        // The client is whoever the PROXY protocol in names; it dialled this node by IPv4.
        let port = bed.addr.port().to_string();
        let with = limited(any_listener(), &[("proxy-protocol-ports", &port)]);
        let service = format!("a-{version}");
        bed.serve(with, route(&service), &[(&service, &[told.addr])]).await;
        let mut client = bed.connect().await;
        client.send("PROXY TCP6 2001:db8::7 2001:db8::1 1000 80\r\n").await;
        ask(&mut client).await;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), bed.addr.port()));
        assert_eq!(told.next().await, want(version, "[2001:db8::7]:1000".parse().unwrap(), local), "{version}");
    }
}

#[tokio::test]
async fn a_proxy_that_reads_it_believes_it() {
    for version in ["v1", "v2"] {
        let mut origin = Origin::named("a").await;
        let settings = Settings { workers: 1, ..Settings::default() };
        let behind = Bed::with(settings, any_listener(), route("b"), &[("b", &[origin.addr])]).await;
        let port = behind.addr.port().to_string();
        behind
            .serve(limited(any_listener(), &[("proxy-protocol-ports", &port)]), route("b"), &[("b", &[origin.addr])])
            .await;
        let bed = bed(&format!("a-{version}"), &[behind.addr]).await;
        let mut client = bed.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(client.response().await.ends_with('a'));
        assert_eq!(header(&origin.next().await, "x-real-ip"), Some("127.0.0.1"), "{version}");
    }
}

#[tokio::test]
async fn streams_of_http2_share_a_connection_with_those_of_their_client_alone() {
    let origin = Http2Origin::named("a").await;
    let mut told = Told::before(origin.addr).await;
    let bed = bed("h2c-v2", &[told.addr]).await;
    let (mut one, mut other) = (connect(&bed).await, connect(&bed).await);
    for _ in 0..3 {
        for client in [&mut one, &mut other] {
            let (first, second) = tokio::join!(client.send_request(get("http://h/")), async {});
            let () = second;
            assert_eq!(text(first.unwrap()).await, "a");
        }
    }
    let heads = [told.next().await, told.next().await];
    assert!(heads[0] != heads[1] && heads.iter().all(|head| head.len() == 28), "{heads:?}");
    assert!(told.untouched());
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn the_head_is_in_front_of_tls() {
    let server = made(&["web.example"]);
    for alpn in [&[&b"h2"[..], b"http/1.1"][..], &[b"http/1.1"]] {
        let origin = TlsOrigin::with(&server, alpn, None).await;
        let mut told = Told::before(origin.addr).await;
        let objects = json!([authority("ca", &server), policy_for("a-v2", "web.example", &[])]);
        let backends: [(&str, &[_]); 1] = [("a-v2", &[told.addr])];
        let bed = Bed::secured(1, Settings::default(), objects, any_listener(), route("a-v2"), &backends).await;
        for handshakes in 1..3 {
            let mut client = bed.connect().await;
            for _ in 0..2 {
                client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
                assert!(client.response().await.ends_with("tls"));
            }
            assert_eq!(told.next().await, want("v2", client.stream.local_addr().unwrap(), bed.addr));
            assert_eq!((origin.handshakes(), told.untouched()), (handshakes, true));
        }
        ask_and_echo(&bed).await;
        assert_eq!(told.next().await.len(), 28);
    }
}

#[tokio::test]
async fn streams_begin_with_it_whether_their_tls_ends_here_or_not() {
    let (front, server) = (made(&["a.example"]), made(&["a.example"]));
    let origin = TlsOrigin::with(&server, &[], None).await;
    let mut told = Told::before(origin.addr).await;
    let route = json!([{"kind": "TLSRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
        "hostnames": ["a.example"], "rules": [{"backendRefs": [{"name": "a-v1", "port": 80}]}]}}]);
    let backends: [(&str, &[_]); 1] = [("a-v1", &[told.addr])];
    for (mode, trusted) in [("Terminate", &front), ("Passthrough", &server)] {
        let mut of = listener("web", None, if mode == "Terminate" { &["cert"] } else { &[] });
        (of["protocol"], of["tls"]["mode"]) = (json!("TLS"), json!(mode));
        let objects = json!([secret("cert", &front), authority("ca", &server), policy_for("a-v1", "a.example", &[])]);
        let bed = Bed::secured(1, Settings::default(), objects, json!([of]), route.clone(), &backends).await;
        let mut client = handshake(&bed, &Arc::new(trusting(&[trusted])), "a.example").await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut got = vec![0; 41];
        tokio::time::timeout(SOON, client.read_exact(&mut got)).await.expect("no answer").unwrap();
        assert!(got.ends_with(b"tls"), "{mode}");
        let addr = client.get_ref().0.local_addr().unwrap();
        assert_eq!(told.next().await, want("v1", addr, bed.addr), "{mode}");
        assert!(told.untouched());
    }
}

#[tokio::test]
async fn what_is_not_understood_has_nothing_sent() {
    let origin = Origin::named("a").await;
    let bed = bed("a-v3", &[origin.addr]).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 500);
    assert_eq!(origin.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
    // Asked for later, no connection of before is used, and the other way round.
    let mut told = Told::before(origin.addr).await;
    let mut client = bed.connect().await;
    for (service, is_told) in [("a-v2", true), ("a-v1", true), ("a-v2", true)] {
        bed.serve(any_listener(), route(service), &[(service, &[told.addr])]).await;
        ask(&mut client).await;
        assert_eq!(told.next().await.starts_with(b"PROXY"), service == "a-v1", "{is_told}");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_one_client_is_passed_over_for_all() {
    let origin = Origin::named("a").await;
    let told = Told::before(origin.addr).await;
    let bed = bed("a-v2", &[told.addr, refusing()]).await;
    for _ in 0..40 {
        assert!(bed.get("/", "h", "").await.ends_with('a'));
    }
    // One that fails again when it is tried again is told of once more, and no client meets it in between.
    assert!((1..5).contains(&bed.stats.sum(|stats| &stats.ejections)), "{}", bed.stats.sum(|stats| &stats.ejections));
}

#[tokio::test]
async fn what_clients_have_for_themselves_makes_room_for_others() {
    let origin = Origin::named("a").await;
    let mut told = Told::before(origin.addr).await;
    let settings = Settings { max_upstreams: 2, ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), route("a-v2"), &[("a-v2", &[told.addr])]).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = bed.connect().await;
        let addr = ask(&mut client).await;
        assert_eq!(told.next().await, want("v2", addr, bed.addr));
        clients.push(client);
    }
    assert!(bed.stats.sum(|stats| &stats.open_upstream) <= 2);
}
