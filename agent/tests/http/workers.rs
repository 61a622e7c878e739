//! Several workers: the kernel spreads clients over them, and what they share holds for all of them together.
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::json;
use sluice::proxy::Settings;

use crate::harness::{Bed, SOON, any_listener, catch_all, until};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// A backend on threads of its own, which answers every request and keeps connections.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// A client that blocks: connected, not answered yet.
struct Client(TcpStream);

impl Client {
    fn dial(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(stream)
    }

    fn ask(&mut self) -> bool {
        self.0.write_all(REQUEST).unwrap();
        let mut buffer = [0; 4096];
        let mut said = Vec::new();
        while !said.ends_with(b"ok") {
            match self.0.read(&mut buffer) {
                Ok(n) if n > 0 => said.extend(&buffer[..n]),
                _ => return false,
            }
        }
        said.starts_with(b"HTTP/1.1 200 OK\r\n")
    }
}

async fn bed(workers: usize, settings: Settings) -> Bed {
    Bed::on(workers, settings, any_listener(), json!([catch_all()]), &[("a", &[backend()])]).await
}

/// Runs what blocks beside the runtime.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn clients_are_spread_and_each_worker_keeps_connections_of_its_own() {
    const CLIENTS: u64 = 64;
    let bed = bed(4, Settings::default()).await;
    let addr = bed.addr;
    let answered = beside(move || {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::dial(addr)).collect();
        // One after the other: whoever comes second to a worker finds its connection unused.
        clients.iter_mut().filter_map(|client| client.ask().then_some(())).count()
    });
    assert_eq!(answered.await as u64, CLIENTS);
    let accepted = bed.stats.each(|s| &s.accepted);
    assert_eq!(accepted.iter().sum::<u64>(), CLIENTS, "{accepted:?}");
    // 64 clients miss one of four workers once in 25 million runs.
    assert!(accepted.iter().all(|n| *n > 0), "{accepted:?}");
    assert_eq!(bed.stats.each(|s| &s.upstream_connects), [1; 4]);
    until("all are unused", || bed.stats.sum(|s| &s.idle_upstream) == 4).await;
    assert_eq!(bed.stats.sum(|s| &s.responses[1]), CLIENTS);
}

#[tokio::test]
async fn the_bound_of_clients_is_that_of_all_workers_and_none_keeps_places_that_it_does_not_use() {
    let bed = bed(8, Settings { max_connections: 4, ..Settings::default() }).await;
    let addr = bed.addr;
    // Whichever workers they come to, as many are served as there are places.
    let mut clients = beside(move || {
        let mut clients: Vec<Client> = (0..4).map(|_| Client::dial(addr)).collect();
        assert!(clients.iter_mut().all(Client::ask));
        clients
    })
    .await;
    assert_eq!(bed.stats.sum(|s| &s.active_connections), 4);
    let mut fifth = Client::dial(addr);
    until("the bound is reported", || bed.stats.sum(|s| &s.accept_waiting) == 1).await;
    assert_eq!(bed.stats.sum(|s| &s.active_connections), 4);
    drop(clients.pop());
    assert!(beside(move || fifth.ask()).await, "it is served when a place is free");
    drop(clients);
    until("all are gone", || bed.stats.sum(|s| &s.active_connections) == 0).await;
    assert_eq!(bed.stats.sum(|s| &s.accept_waiting), 0);
}

/// The runtime of this test is that of the control stages, which are busy for a second.
#[tokio::test]
async fn requests_do_not_wait_for_the_control_runtime() {
    let bed = bed(2, Settings::default()).await;
    let addr = bed.addr;
    let (done_out, done) = std::sync::mpsc::channel();
    let client = thread::spawn(move || {
        let answered = (0..20).filter(|_| Client::dial(addr).ask()).count();
        done_out.send(answered).unwrap();
    });
    // Nothing of this runtime runs before they are answered.
    assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok(20));
    client.join().unwrap();
}

#[tokio::test]
async fn every_worker_lets_its_requests_end() {
    let bed = bed(4, Settings { drain: SOON, ..Settings::default() }).await;
    let addr = bed.addr;
    let mut clients = beside(move || {
        let mut clients: Vec<Client> = (0..16).map(|_| Client::dial(addr)).collect();
        assert!(clients.iter_mut().all(Client::ask));
        clients
    })
    .await;
    bed.cancel.cancel();
    tokio::time::timeout(SOON, bed.task).await.expect("it ends").unwrap();
    let closed = beside(move || clients.iter_mut().all(|client| matches!(client.0.read(&mut [0; 16]), Ok(0)))).await;
    assert!(closed, "idle connections are closed in order");
    assert!(TcpStream::connect(addr).is_err(), "no socket of the group is left");
}
