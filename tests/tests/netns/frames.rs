//! What RFC 9113 calls an error is answered by the end that it names, in clear text and under TLS, and by nothing worse.
use std::net::SocketAddr;

use sluice_tests::netns::{
    frames::{End, Wire, announced, field, frame, get, kind::*, post},
    secure::Certificate,
};

use super::http2::shop;

// Codes. Source: RFC 9113 part 7.
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;
/// `:status: 400` there.
const STATUS_400: u8 = 0x8c;
/// The most that a window may be.
const MAX_WINDOW: u32 = 0x7fff_ffff;

/// A sentence, the frames, and the ends that RFC 9113 lets a server choose from. A connection error does for a stream error (part
/// 5.4.2), and an endpoint may close without GOAWAY (part 5.4.1). Where the connection ends, the general code PROTOCOL_ERROR does as
/// well: h2 says it of lengths and settings for which there is a narrower one.
type Case = (&'static str, Vec<Vec<u8>>, &'static [u32]);

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn of_connection() -> Vec<Case> {
    vec![
        ("5.1 DATA on an idle stream", vec![frame(DATA, 1, 1, b"x")], &[PROTOCOL, STREAM_CLOSED]),
        ("5.1 RST_STREAM on an idle stream", vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], &[PROTOCOL]),
        ("5.1 WINDOW_UPDATE on an idle stream", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], &[PROTOCOL]),
        ("4.2 a frame beyond the largest", vec![frame(PING, 0, 0, &[0; 20_000])], &[FRAME_SIZE]),
        ("6.1 DATA on the connection", vec![frame(DATA, 0, 0, b"x")], &[PROTOCOL]),
        ("6.4 RST_STREAM on the connection", vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])], &[PROTOCOL]),
        ("6.5 SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], &[PROTOCOL]),
        ("6.5 SETTINGS of five bytes", vec![frame(SETTINGS, 0, 0, &[0; 5])], &[FRAME_SIZE]),
        ("6.5 an acknowledgement with settings", vec![frame(SETTINGS, 1, 0, &setting(3, 1))], &[FRAME_SIZE]),
        ("6.5.2 ENABLE_PUSH of 2", vec![frame(SETTINGS, 0, 0, &setting(2, 2))], &[PROTOCOL]),
        (
            "6.5.2 a window beyond the largest",
            vec![frame(SETTINGS, 0, 0, &setting(4, MAX_WINDOW + 1))],
            &[FLOW_CONTROL],
        ),
        ("6.5.2 frames below the least", vec![frame(SETTINGS, 0, 0, &setting(5, 16_383))], &[PROTOCOL]),
        ("6.5.2 frames beyond the largest", vec![frame(SETTINGS, 0, 0, &setting(5, 1 << 24))], &[PROTOCOL]),
        ("6.6 a client that pushes", vec![frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82])], &[PROTOCOL]),
        ("6.7 PING of seven bytes", vec![frame(PING, 0, 0, &[0; 7])], &[FRAME_SIZE]),
        ("6.7 PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], &[PROTOCOL]),
        ("6.8 GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], &[PROTOCOL]),
        ("6.9 a window grown by nothing", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], &[PROTOCOL]),
        ("6.9 WINDOW_UPDATE of three bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], &[FRAME_SIZE]),
        (
            "6.9.1 a window beyond the largest",
            vec![frame(WINDOW_UPDATE, 0, 0, &MAX_WINDOW.to_be_bytes())],
            &[FLOW_CONTROL],
        ),
        ("6.10 CONTINUATION of nothing", vec![frame(CONTINUATION, 4, 1, &[0x82])], &[PROTOCOL]),
        ("4.3 HPACK: an index that is not there", vec![frame(HEADERS, 5, 1, &[0xff, 0x7f])], &[COMPRESSION]),
        ("4.3 HPACK: index 0", vec![frame(HEADERS, 5, 1, &[0x80])], &[COMPRESSION]),
        ("4.3 HPACK: a number without end", vec![frame(HEADERS, 5, 1, &[0xff; 40])], &[COMPRESSION]),
        (
            "4.3 HPACK: a table larger than allowed",
            vec![frame(HEADERS, 5, 1, &[0x3f, 0xe1, 0xff, 0x7f])],
            &[COMPRESSION],
        ),
        (
            "4.3 HPACK: Huffman that is none",
            vec![frame(HEADERS, 5, 1, &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00])],
            &[COMPRESSION],
        ),
    ]
}

fn of_streams(tls: bool) -> Vec<Case> {
    let (get, post) = (get(tls), post(tls));
    let open = || frame(HEADERS, 4, 1, &post);
    let with = |more: &[u8]| frame(HEADERS, 5, 1, &[&get[..], more].concat());
    vec![
        ("5.1 DATA behind the end", vec![frame(HEADERS, 5, 1, &post), frame(DATA, 1, 1, b"x")], &[STREAM_CLOSED]),
        ("5.1.1 HEADERS on a stream of the server", vec![frame(HEADERS, 5, 2, &get)], &[PROTOCOL]),
        ("5.1.1 HEADERS on the connection", vec![frame(HEADERS, 5, 0, &get)], &[PROTOCOL]),
        (
            "5.1.1 a stream below the last",
            vec![frame(HEADERS, 4, 5, &post), frame(HEADERS, 4, 3, &post)],
            &[PROTOCOL, STREAM_CLOSED],
        ),
        ("6.2 padding longer than the frame", vec![frame(HEADERS, 13, 1, &[&[200], &get[..]].concat())], &[PROTOCOL]),
        ("6.1 padding longer than the data", vec![open(), frame(DATA, 9, 1, &[5, b'x'])], &[PROTOCOL]),
        ("6.2 PING within a head", vec![frame(HEADERS, 1, 1, &get), frame(PING, 0, 0, &[0; 8])], &[PROTOCOL]),
        (
            "6.10 the head of another stream goes on",
            vec![frame(HEADERS, 1, 1, &get), frame(CONTINUATION, 4, 3, &get)],
            &[PROTOCOL],
        ),
        ("6.3 PRIORITY of four bytes", vec![open(), frame(PRIORITY, 0, 1, &[0; 4])], &[FRAME_SIZE]),
        ("6.4 RST_STREAM of three bytes", vec![open(), frame(RST_STREAM, 0, 1, &[0; 3])], &[FRAME_SIZE]),
        ("6.9 a stream's window grown by nothing", vec![open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])], &[PROTOCOL]),
        (
            "6.9.1 a stream's window beyond the largest",
            vec![open(), frame(WINDOW_UPDATE, 0, 1, &MAX_WINDOW.to_be_bytes())],
            &[FLOW_CONTROL],
        ),
        ("8.2 an upper-case name", vec![with(&field("X-A", "1"))], &[PROTOCOL]),
        ("8.2.2 a field of the connection", vec![with(&field("connection", "close"))], &[PROTOCOL]),
        ("8.2.2 TE other than trailers", vec![with(&field("te", "gzip"))], &[PROTOCOL]),
        ("8.3 a pseudo header that is none", vec![with(&field(":x", "1"))], &[PROTOCOL]),
        ("8.3 a pseudo header of responses", vec![with(&field(":status", "200"))], &[PROTOCOL]),
        ("8.3 a pseudo header twice", vec![with(&[0x82])], &[PROTOCOL]),
        (
            "8.3 a pseudo header behind a field",
            vec![with(&[&field("x-a", "1")[..], &field(":path", "/a")].concat())],
            &[PROTOCOL],
        ),
        ("8.3.1 no method", vec![frame(HEADERS, 5, 1, &get[1..])], &[PROTOCOL]),
        ("8.3.1 no path", vec![frame(HEADERS, 5, 1, &[&get[..2], &get[3..]].concat())], &[PROTOCOL]),
        (
            "8.1.1 less data than announced",
            vec![frame(HEADERS, 4, 1, &[&post[..], &field("content-length", "2")].concat()), frame(DATA, 1, 1, b"x")],
            &[PROTOCOL],
        ),
        (
            "8.1 trailers that do not end the stream",
            vec![open(), frame(HEADERS, 4, 1, &field("x-a", "1"))],
            &[PROTOCOL],
        ),
    ]
}

/// Sends the frames, and a PING behind them: whoever finds nothing wrong answers that. What is wrong with the end that comes.
async fn judge(to: SocketAddr, tls: Option<&Certificate>, (what, frames, codes): &Case) -> Option<String> {
    let of = |frame: &Vec<u8>| u32::from(frame[8]);
    let stream = frames.iter().rev().map(of).find(|stream| *stream != 0).unwrap_or(0);
    let mut wire = Wire::open(to, tls).await.expect("a connection");
    wire.send(&frames.concat()).await;
    wire.send(&frame(PING, 0, 0, b"8 bytes!")).await;
    let mut end = wire.end(stream).await;
    if matches!(end, Ok(End::Alive)) {
        // A stream's error may be told behind the answer to PING.
        end = wire.end(stream).await;
    }
    let is_right = match end {
        Ok(End::Connection(None)) => true,
        Ok(End::Connection(Some(code))) => codes.contains(&code) || code == PROTOCOL,
        Ok(End::Stream(code)) => codes.contains(&code),
        // A malformed request may have a response of its own before its stream ends (RFC 9113 part 8.1.1).
        Ok(End::Response(first)) => what.starts_with('8') && first == STATUS_400,
        Ok(End::Alive) | Err(_) => false,
    };
    (!is_right).then(|| format!("{what}, tls: {}: {end:?}, want one of {codes:?}", tls.is_some()))
}

#[test]
fn errors_of_rfc_9113_have_the_ends_that_it_names() {
    let made = Certificate::new("shop.example");
    let (scene, vip) = shop(&made);
    scene.lab.client.block_on(|| async {
        for (port, tls) in [(80, None), (443, Some(&made))] {
            let to = SocketAddr::from((vip, port));
            let mut wrong = Vec::new();
            for case in of_connection().iter().chain(&of_streams(tls.is_some())) {
                wrong.extend(judge(to, tls, case).await);
            }
            assert!(wrong.is_empty(), "{wrong:#?}");
            // A pseudo header in trailers is malformed as well (8.1). h2 drops it and does not tell: it goes no further.
            let mut wire = Wire::open(to, tls).await.expect("a connection");
            let trailers = frame(HEADERS, 5, 1, &[&field("x-sum", "1")[..], &[0x82]].concat());
            wire.send(&[frame(HEADERS, 4, 1, &post(tls.is_some())), trailers].concat()).await;
            let end = wire.end(1).await.expect("an end");
            assert!(matches!(end, End::Response(STATUS_200 | STATUS_400) | End::Stream(PROTOCOL)), "{end:?}");
            // More streams at once than are admitted: those beyond are refused, the connection stays.
            let mut wire = Wire::open(to, tls).await.expect("a connection");
            let open = |stream| frame(HEADERS, 4, stream, &post(tls.is_some()));
            wire.send(&(0..300).map(|n| open(2 * n + 1)).collect::<Vec<_>>().concat()).await;
            let end = wire.end(599).await.expect("an end");
            assert!(matches!(end, End::Stream(REFUSED | PROTOCOL)), "{end:?}");
            wire.send(&frame(PING, 0, 0, b"8 bytes!")).await;
            assert_eq!(wire.end(599).await.expect("an answer"), End::Alive);
            // A length that is announced and never comes keeps nobody else from being served.
            let mut wire = Wire::open(to, tls).await.expect("a connection");
            wire.send(&announced(DATA, 0, 1, 16_000, b"x")).await;
            wire.finish().await;
            assert!(matches!(wire.end(1).await.expect("an end"), End::Connection(_)));
            // No preface at all.
            let mut wire = Wire::connect(to, tls).await.expect("a connection");
            wire.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
            wire.finish().await;
            wire.end(1).await.ok();
        }
    });
}
