use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;

use super::{super::boundary::Doubt, *};

const MAX_HEAD: usize = 8192;

/// What a client sends, read by read, then the end. What is written to it is forgotten.
#[derive(Debug)]
struct Script(VecDeque<Bytes>);

impl Script {
    fn new(bytes: &[u8], cuts: &[usize]) -> Self {
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut reads = VecDeque::new();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let n = cuts.next().copied().unwrap_or(usize::MAX).clamp(1, rest.len());
            reads.push_back(rest.split_to(n));
        }
        Self(reads)
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(next) = self.0.front_mut() {
            let n = next.len().min(buf.remaining());
            buf.put_slice(&next.split_to(n));
            if next.is_empty() {
                self.0.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What hyper sees: heads in a line of text, then bodies and trailers; `None` for a body that broke off.
type Seen = Vec<(String, Option<Vec<u8>>)>;

async fn answer(request: Request<Incoming>, seen: Arc<Mutex<Seen>>) -> Response<Empty<Bytes>> {
    let (head, body) = request.into_parts();
    // Some bodies are left unread, which hyper drains or closes over.
    let body = match head.headers.contains_key("x-skip") {
        true => Some(Vec::new()),
        false => body.collect().await.ok().map(|all| {
            let trailers = format!("{:?}", all.trailers());
            [all.to_bytes().to_vec(), trailers.into_bytes()].concat()
        }),
    };
    let head = format!("{} {} {:?}", head.method, head.uri, head.headers);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((head, body));
    Response::new(Empty::new())
}

fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, announced: Arc<Announced>, max: usize) -> Seen {
    let seen = Arc::new(Mutex::new(Seen::new()));
    let requests = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let _ = announced.announce(&request);
        let seen = Arc::clone(&requests);
        async move { Ok::<_, Infallible>(answer(request, seen).await) }
    });
    let mut server = http1::Builder::new();
    server.half_close(true).header_read_timeout(None).max_buf_size(max);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _ = runtime.block_on(server.serve_connection(TokioIo::new(stream), service).with_upgrades());
    std::mem::take(&mut *seen.lock().unwrap())
}

fn through(bytes: &[u8], cuts: &[usize]) -> Seen {
    let announced = Arc::new(Announced::default());
    let lines = RequestLines::new(Script::new(bytes, cuts), Arc::clone(&announced), MAX_HEAD);
    serve(lines, announced, MAX_HEAD + SLACK)
}

fn direct(bytes: &[u8], cuts: &[usize]) -> Seen {
    serve(Script::new(bytes, cuts), Arc::default(), MAX_HEAD)
}

fn targets(bytes: &str) -> Vec<String> {
    let target = |(head, _): (String, _)| head.split(' ').nth(1).unwrap().to_owned();
    through(bytes.as_bytes(), &[]).into_iter().map(target).collect()
}

#[test]
fn what_http_takes_for_no_target_is_escaped_and_nothing_else() {
    for byte in 0x21..0x7f_u8 {
        if matches!(byte, b'#' | b'?') {
            continue;
        }
        let sent = [&b"/a"[..], &[byte], b"b"].concat();
        assert_eq!(Uri::try_from(sent).is_err(), Part::Path.escapes(byte), "{:?} in a path", char::from(byte));
        let sent = [&b"/?a"[..], &[byte], b"b"].concat();
        assert_eq!(Uri::try_from(sent).is_err(), Part::Query.escapes(byte), "{:?} in a query", char::from(byte));
    }
}

#[test]
fn targets_of_all_messages_of_a_connection_are_escaped() {
    let head = " HTTP/1.1\r\nhost: x\r\n";
    let requests = format!(
        "\r\nGET /a<b>`?q=\"<>`#<{head}\r\nPOST /1?<{head}content-length: 13\r\n\r\nGET /x?< HTTP\nGET /2?>{head}\n\
         POST /3?\"{head}transfer-encoding: chunked\r\n\r\n9;\"<\r\nGET /y?<\r\r\n0\r\nz: GET /?<\r\n\r\nGET /4?<{head}\r\n"
    );
    assert_eq!(targets(&requests), ["/a%3Cb%3E%60?q=%22%3C%3E`", "/1?%3C", "/2?%3E", "/3?%22", "/4?%3C"]);
    assert!(targets(&format!("GET http://a<b/?<{head}\r\n")).is_empty());
}

#[test]
fn the_limit_of_a_head_counts_what_was_sent() {
    let with = |length: usize, raw: usize| {
        let line = format!("GET /?{} HTTP/1.1\r\nx: ", "<".repeat(raw));
        let filler = "a".repeat(length - line.len() - "\r\n\r\n".len());
        targets(&format!("{line}{filler}\r\n\r\n")).len()
    };
    for raw in [0, 1, MOST_ESCAPES] {
        assert_eq!((with(MAX_HEAD, raw), with(MAX_HEAD + 1, raw)), (1, 0), "{raw}");
    }
    assert_eq!(with(MAX_HEAD, MOST_ESCAPES + 1), 0);
}

#[test]
fn two_framings_are_seen_however_they_are_written_and_read() {
    let doubts = |fields: &str, cut: usize| {
        let bytes =
            format!("POST / HTTP/1.1\r\nhost: x\r\n{fields}\r\n0\r\n\r\nGET / HTTP/1.1\r\nconnection: x\r\n\r\n");
        let announced = Arc::new(Announced::default());
        let mut lines = RequestLines::new(Script::new(bytes.as_bytes(), &[cut]), Arc::clone(&announced), MAX_HEAD);
        let mut doubt = None;
        let waker = std::task::Waker::noop();
        for _ in 0..bytes.len() + 1 {
            let mut room = [0; 64];
            let mut buf = ReadBuf::new(&mut room);
            assert!(Pin::new(&mut lines).poll_read(&mut Context::from_waker(waker), &mut buf).is_ready());
            if lines.part == Part::HeadEnd {
                if doubt.is_some() {
                    break;
                }
                let request = Request::new(http_body_util::StreamBody::new(futures_util::stream::empty::<
                    Result<http_body::Frame<Bytes>, Infallible>,
                >()));
                doubt = Some(announced.announce(&request));
            }
        }
        assert_eq!(lines.part, Part::HeadEnd, "{fields:?}");
        doubt.unwrap()
    };
    let (length, coding) = ("CONTENT-length: 4\r\n", "Transfer-ENCODING:chunked\r\n");
    for cut in [1, 7, 1000] {
        for both in
            [format!("{length}{coding}"), format!("{coding}t: 1\n{length}c\n"), format!("x: y\r\n{coding}{length}")]
        {
            assert_eq!(doubts(&both, cut), Some(Doubt::TwoFramings), "{both:?}");
        }
        for one in [coding.to_owned(), format!("{coding}content-lengths: 4\r\nx-content-length: 4\r\n{coding}")] {
            assert_eq!(doubts(&one, cut), None, "{one:?}");
        }
    }
}

/// What looks like the beginning of a message, or its end, wherever it stands.
const TRAPS: [&str; 8] = ["GET /t?< HTTP/1.1\r\n\r\n", "\r\n\r\n", "\n\n", "0\r\n\r\n", "<", "\"", ">", "\r\n0\r\n"];

fn lines() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(&["x: <\"\r\n", "y:\r\n", "x-skip: 1\r\n", "z: a\n", "expect: 100-continue\r\n"]),
        0..4,
    )
    .prop_map(|lines| lines.concat())
}

fn data() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&TRAPS), 0..4).prop_map(|traps| traps.concat())
}

fn message() -> impl Strategy<Value = String> {
    let line = prop::sample::select(&[
        "GET /a HTTP/1.1\r\n",
        "\r\nPOST /b?c HTTP/1.1\r\n",
        "PUT http://h/ HTTP/1.1\n",
        "GET /old HTTP/1.0\r\nconnection: keep-alive\r\n",
        "OPTIONS * HTTP/1.1\r\n",
    ]);
    let chunk =
        (data(), prop::sample::select(&["", ";e=\"<\"", " ", "\t;x"])).prop_map(|(data, extension)| match data.len() {
            0 => String::new(),
            n => format!("{n:x}{extension}\r\n{data}\r\n"),
        });
    let trailers = prop::collection::vec(prop::sample::select(&["t: <\r\n", "GET /?<: v\r\n"]), 0..3);
    let body = prop_oneof![
        Just("\r\n".to_owned()),
        Just("content-length: 0\r\n\r\n".to_owned()),
        Just("upgrade: h2c\r\n\r\n".to_owned()),
        data().prop_map(|data| format!("content-length: {}\r\n\r\n{data}", data.len())),
        (prop::collection::vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| {
            format!("transfer-encoding: chunked\r\n\r\n{}0\r\n{}\r\n", chunks.concat(), trailers.concat())
        }),
    ];
    (line, lines(), body).prop_map(|(line, lines, body)| format!("{line}{lines}{body}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn hyper_sees_the_same_messages_as_without(
        messages in prop::collection::vec(message(), 1..6),
        cuts in prop::collection::vec(1..60_usize, 1..5),
    ) {
        let bytes = messages.concat().into_bytes();
        prop_assert_eq!(through(&bytes, &cuts), direct(&bytes, &cuts));
    }

    /// Broken in any way, nothing that hyper served before is seen otherwise; a target that it refused may be served.
    #[test]
    fn what_hyper_served_is_served_alike_when_the_bytes_are_broken(
        messages in prop::collection::vec(message(), 1..6),
        cuts in prop::collection::vec(1..60_usize, 1..5),
        faults in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"\r\n <>\"/?;0aF:#\0"[..]), 0..3_u8), 1..4),
    ) {
        let mut bytes = messages.concat().into_bytes();
        for (at, byte, kind) in faults {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        let (ours, theirs) = (through(&bytes, &cuts), direct(&bytes, &cuts));
        prop_assert!(ours.starts_with(&theirs), "{:?}\n{:?}", ours, theirs);
    }
}
