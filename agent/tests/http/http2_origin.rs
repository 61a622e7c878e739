//! A backend of HTTP/2 with prior knowledge, and one that speaks frames.
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response, request::Parts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};

use crate::harness::SOON;

/// One stream at the backend.
pub(crate) struct Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Call {
    /// Reads the request to its end.
    pub(crate) async fn read(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let (mut all, body) = (Vec::new(), self.request.body_mut());
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            all.extend(data);
        }
        (all, body.trailers().await.unwrap())
    }

    /// Answers with a body.
    pub(crate) fn text(mut self, text: &str) {
        let mut body = self.respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::copy_from_slice(text.as_bytes()), true).unwrap();
    }
}

/// A backend that runs a script for each stream.
pub(crate) struct Http2Origin {
    pub addr: SocketAddr,
    /// The heads that came in.
    pub seen: mpsc::UnboundedReceiver<Parts>,
    /// How many connections it had.
    pub connections: Arc<AtomicUsize>,
    /// The most streams that one connection had at a time.
    pub most: Arc<AtomicUsize>,
    /// Has every connection say GOAWAY and finish.
    pub leave: Arc<Notify>,
}

impl Http2Origin {
    /// `max`: how many streams it allows.
    pub(crate) async fn start<F, W>(max: Option<u32>, script: F) -> Self
    where
        F: Fn(Call) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let (connections, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let leave = Arc::new(Notify::new());
        let origin = Self {
            addr,
            seen,
            connections: Arc::clone(&connections),
            most: Arc::clone(&most),
            leave: Arc::clone(&leave),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Relaxed);
                let (script, sender, most, leave) =
                    (script.clone(), sender.clone(), Arc::clone(&most), Arc::clone(&leave));
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.enable_connect_protocol();
                    if let Some(max) = max {
                        builder.max_concurrent_streams(max);
                    }
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    let active = Arc::new(AtomicUsize::new(0));
                    loop {
                        tokio::select! {
                            call = connection.accept() => {
                                let Some(Ok((request, respond))) = call else { return };
                                let (parts, body) = request.into_parts();
                                let _ = sender.send(parts.clone());
                                most.fetch_max(active.fetch_add(1, Relaxed) + 1, Relaxed);
                                let (script, active) = (script.clone(), Arc::clone(&active));
                                tokio::spawn(async move {
                                    script(Call { request: Request::from_parts(parts, body), respond }).await;
                                    active.fetch_sub(1, Relaxed);
                                });
                            }
                            () = leave.notified() => connection.graceful_shutdown(),
                        }
                    }
                });
            }
        });
        origin
    }

    /// Answers every stream with its name, after the request's end.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::start(None, move |mut call: Call| async move {
            call.read().await;
            call.text(name);
        })
        .await
    }

    /// The next head that came in.
    pub(crate) async fn next(&mut self) -> Parts {
        tokio::time::timeout(SOON, self.seen.recv()).await.expect("nothing came").unwrap()
    }

    /// How many connections it had.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `:status: 200` in HPACK.
pub(crate) const OK: &[u8] = &[0x88];

/// A connection of HTTP/2, frame by frame.
pub(crate) struct Frames(TcpStream);

impl Frames {
    /// The server's side of a connection whose preface and SETTINGS are exchanged.
    pub(crate) async fn accept(mut stream: TcpStream) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface[..3], b"PRI");
        let mut frames = Self(stream);
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = Vec::from(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next frame of a kind, with its flags and stream; `None` at the end of the connection.
    pub(crate) async fn next(&mut self, kind: u8) -> Option<(u8, u32, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            if head[3] == SETTINGS && head[4] & 1 == 0 {
                self.send(SETTINGS, 1, 0, &[]).await;
            }
            if head[3] == kind {
                return Some((head[4], stream, payload));
            }
        }
    }
}

/// A backend that runs a script for each connection, which gets its number from 0.
pub(crate) async fn frames<F, W>(script: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(usize, Frames) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let peer = Frames::accept(stream).await;
            tokio::spawn(script(count.fetch_add(1, Relaxed), peer));
        }
    });
    (addr, connections)
}
