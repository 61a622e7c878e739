//! What the proxy costs, counted and not timed: bytes on the heap for a connection that is idle, allocations for a request.
//!
//! Clients and endpoint allocate nothing while it is counted, so what is counted is the proxy's. The bounds are ratchets: lower them
//! where the proxy became cheaper.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests and their harness")]

#[allow(dead_code, reason = "made for the tests of the proxy's behaviour")]
#[path = "../http/harness.rs"]
mod harness;

use std::{
    alloc::System,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use sluice::proxy::Settings;
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

use crate::harness::{Bed, any_listener, catch_all};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Held by the test that counts: the allocator is one for all.
static COUNTS: Mutex<()> = Mutex::new(());

const REQUEST: &[u8] =
    b"GET /some/path?with=query HTTP/1.1\r\nhost: a.example\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
const BODY: [u8; 1 << 10] = [b'x'; 1 << 10];
/// How many connections, or requests, the average is taken of.
const COUNTED: usize = 200;
/// How many allocations a request may take, those of hyper included.
const MOST_ALLOCATIONS: usize = 14;
/// How long a connection may take to give back what it does not need.
const SOON: Duration = Duration::from_secs(20);

/// Runs a test when no other runs, and nothing of one is left.
fn alone(test: impl AsyncFnOnce() -> Bed) {
    let _alone = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let bed = test().await;
        bed.cancel.cancel();
        bed.task.await.unwrap();
    });
}

/// Bytes on the heap.
fn live() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.cast_signed() - stats.bytes_deallocated.cast_signed()
}

/// An endpoint that answers each request with [`BODY`].
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let (mut buffer, mut have) = ([0; 4096], 0);
                let mut response =
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n".to_vec();
                response.extend_from_slice(&BODY);
                while let Ok(n @ 1..) = stream.read(&mut buffer[have..]) {
                    have += n;
                    if buffer[..have].ends_with(b"\r\n\r\n") {
                        have = 0;
                        if stream.write_all(&response).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

/// Sends a request and reads the response.
fn ask(stream: &mut (impl Read + Write)) {
    stream.write_all(REQUEST).unwrap();
    let (mut buffer, mut have) = ([0; 4096], 0);
    while !buffer[..have].ends_with(&BODY) {
        let n = stream.read(&mut buffer[have..]).unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&buffer[..have]));
        have += n;
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&buffer[..have]));
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// What `COUNTED` connections take that were opened like this, on the average, when it is no more than `most`. Units: bytes.
fn idle(most: isize, open: impl Fn() -> TcpStream) {
    // What the first of them bring with them is not counted.
    let warm: Vec<TcpStream> = (0..COUNTED).map(|_| open()).collect();
    thread::sleep(Duration::from_secs(1));
    let mut all = Vec::with_capacity(COUNTED);
    let before = live();
    all.extend((0..COUNTED).map(|_| open()));
    let began = Instant::now();
    loop {
        let each = (live() - before) / COUNTED.cast_signed();
        if each <= most {
            println!("{each} bytes of {most}");
            break;
        }
        assert!(began.elapsed() < SOON, "an idle connection takes {each} bytes, want at most {most}");
        thread::sleep(Duration::from_millis(50));
    }
    drop((all, warm));
}

async fn plain() -> Bed {
    Bed::with(Settings::default(), any_listener(), json!([catch_all()]), &[("a", &[endpoint()])]).await
}

#[test]
fn an_idle_connection_in_clear_text_takes_little() {
    alone(async || {
        let bed = plain().await;
        idle(4 << 10, || {
            let mut stream = connect(bed.addr);
            ask(&mut stream);
            stream
        });
        bed
    });
}

#[test]
fn an_idle_connection_under_tls_takes_little() {
    alone(async || under_tls().await);
}

async fn under_tls() -> Bed {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let secret = json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key.serialize_pem()}});
    let listener = json!({"name": "s", "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]}});
    let (secrets, listeners, routes) = (json!([secret]), json!([listener]), json!([catch_all()]));
    let bed = Bed::secured(1, Settings::default(), secrets, listeners, routes, &[("a", &[endpoint()])]).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    idle(12 << 10, || {
        let name = ServerName::try_from("a.example").unwrap();
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(&config), name).unwrap(), connect(bed.addr));
        ask(&mut stream);
        // What the client remembers goes; the connection stays.
        stream.sock
    });
    bed
}

#[test]
fn a_request_over_a_kept_connection_allocates_little() {
    alone(async || {
        let bed = plain().await;
        let mut stream = connect(bed.addr);
        (0..COUNTED).for_each(|_| ask(&mut stream));
        let before = ALLOCATOR.stats();
        (0..COUNTED).for_each(|_| ask(&mut stream));
        let after = ALLOCATOR.stats();
        let allocations = |stats: Stats| stats.allocations + stats.reallocations;
        let each = (allocations(after) - allocations(before)) / COUNTED;
        let bytes = (after.bytes_allocated - before.bytes_allocated) / COUNTED;
        println!("{each} allocations, {bytes} bytes");
        assert!(each <= MOST_ALLOCATIONS, "a request takes {each} allocations of {bytes} bytes");
        bed
    });
}
