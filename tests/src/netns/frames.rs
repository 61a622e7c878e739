//! HTTP/2 in bytes: frames that no client library would send, and what comes back, judged as strictly.
//!
//! In: an address, and TLS or not. Out: a [`Wire`] that has said its preface and its SETTINGS. What it reads must be frames of RFC
//! 9113 part 4.1 within the limits that it has announced; anything else is an error of the other side.
use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::secure::Certificate;

/// What the other side may take to answer or to close.
const LIMIT: Duration = Duration::from_secs(60);
/// The largest frame that we let the other side send: the protocol's default.
const MAX_FRAME: usize = 16_384;

/// Kinds of frames. Source: RFC 9113 part 6.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PUSH_PROMISE.
    pub const PUSH_PROMISE: u8 = 5;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What is behind its head.
    pub payload: Vec<u8>,
}

/// A frame to send; its length is that of the payload, whatever the kind wants.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    announced(kind, flags, stream, payload.len(), payload)
}

/// A frame that announces another length than it has. Order: network.
#[must_use]
pub fn announced(kind: u8, flags: u8, stream: u32, length: usize, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = length.to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// The fields of `GET http://shop.example/`, or of https.
#[must_use]
pub fn get(tls: bool) -> Vec<u8> {
    let scheme = if tls { 0x87 } else { 0x86 };
    [&[0x82, scheme, 0x84, 0x41, 12][..], b"shop.example"].concat()
}

/// The same of POST.
#[must_use]
pub fn post(tls: bool) -> Vec<u8> {
    let mut fields = get(tls);
    fields[0] = 0x83;
    fields
}

/// A field as a literal that is not indexed; both parts shorter than 127 bytes.
#[must_use]
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or(126).min(126);
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection.
pub struct Wire {
    stream: Box<dyn Stream>,
}

/// How the other side ended something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// GOAWAY with this code that is not 0, or the connection closed without one (`None`).
    Connection(Option<u32>),
    /// RST_STREAM with this code.
    Stream(u32),
    /// A response; the first byte of its block, which is the index of its status where HPACK has one.
    Response(u8),
    /// PING was acknowledged: nothing is wrong.
    Alive,
}

impl Wire {
    /// Connects, and says preface and SETTINGS.
    ///
    /// # Errors
    /// Nobody answers, or not in HTTP/2.
    pub async fn open(to: SocketAddr, tls: Option<&Certificate>) -> anyhow::Result<Self> {
        let mut this = Self::connect(to, tls).await?;
        this.send(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(kind::SETTINGS, 0, 0, &[])].concat()).await;
        Ok(this)
    }

    /// Connects and says nothing.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn connect(to: SocketAddr, tls: Option<&Certificate>) -> anyhow::Result<Self> {
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?),
            Some(made) => Box::new(made.connect(to, "h2").await?),
        };
        Ok(Self { stream })
    }

    /// Sends bytes; that the other side has closed meanwhile shows when its frames are read. It returns too where the other side
    /// takes no more.
    pub async fn send(&mut self, bytes: &[u8]) {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let _ = tokio::time::timeout(LIMIT, write).await;
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        let _ = tokio::time::timeout(LIMIT, self.stream.shutdown()).await;
    }

    /// The next frame; `None` when the connection has ended, in order or not.
    ///
    /// # Errors
    /// What comes is no frame that we have asked for, or nothing comes and the connection stays open.
    pub async fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        tokio::time::timeout(LIMIT, self.read()).await.context("neither an answer nor an end")?
    }

    async fn read(&mut self) -> anyhow::Result<Option<Frame>> {
        let mut head = [0; 9];
        if self.stream.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let (length, stream) = (u32::from_be_bytes([0, a, b, c]) as usize, u32::from_be_bytes(stream));
        anyhow::ensure!(length <= MAX_FRAME, "a frame of {length} bytes, want {MAX_FRAME} at most");
        anyhow::ensure!(kind <= kind::CONTINUATION && kind != kind::PUSH_PROMISE, "a frame of kind {kind}");
        let mut payload = vec![0; length];
        if self.stream.read_exact(&mut payload).await.is_err() {
            return Ok(None);
        }
        let least = match kind {
            kind::RST_STREAM | kind::WINDOW_UPDATE => 4,
            kind::PING | kind::GOAWAY => 8,
            _ => 0,
        };
        anyhow::ensure!(length >= least, "a frame of kind {kind} with {length} bytes, want {least}");
        Ok(Some(Frame { kind, flags, stream, payload }))
    }

    /// What becomes of a stream, or of the connection: the first end of either that is told.
    ///
    /// # Errors
    /// As [`Wire::next`].
    pub async fn end(&mut self, stream: u32) -> anyhow::Result<End> {
        while let Some(Frame { kind, flags, stream: of, payload }) = self.next().await? {
            match kind {
                kind::GOAWAY if code(&payload, 4) != 0 => return Ok(End::Connection(Some(code(&payload, 4)))),
                kind::RST_STREAM if of == stream => return Ok(End::Stream(code(&payload, 0))),
                kind::HEADERS if of == stream => return Ok(End::Response(payload.first().copied().unwrap_or(0))),
                kind::PING if flags & 1 != 0 => return Ok(End::Alive),
                _ => {}
            }
        }
        Ok(End::Connection(None))
    }
}

/// A number of 32 bits in a payload.
fn code(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
