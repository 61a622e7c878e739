//! HTTP/2 in bytes: frames that no client library would send.
use tokio::io::AsyncReadExt as _;

use crate::harness::{Bed, Client, Origin, SOON, header};

/// Sends frames behind a preface with SETTINGS, and returns the connection.
pub(crate) async fn http2(bed: &Bed, frames: &[Vec<u8>]) -> Client {
    let mut client = bed.connect().await;
    client.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat()).await;
    client.send(frames.concat()).await;
    client
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, _, high, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// HEADERS of `GET http://x/`, which end the stream.
pub(crate) fn get(stream: u8) -> Vec<u8> {
    frame(1, 5, stream, b"\x82\x86\x84\x41\x01x")
}

/// The next frame of this kind on this stream.
pub(crate) async fn next_frame(client: &mut Client, kind: u8, stream: u8) -> Vec<u8> {
    let find = async {
        loop {
            let mut head = [0; 9];
            client.stream.read_exact(&mut head).await.expect("closed");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            client.stream.read_exact(&mut payload).await.unwrap();
            if (head[3], head[8]) == (kind, stream) {
                return payload;
            }
        }
    };
    tokio::time::timeout(SOON, find).await.expect("the frame never came")
}

/// Ends a stream with this error code, or the connection.
async fn ends(client: &mut Client, stream: u8) -> Option<(&'static str, u32)> {
    let find = async {
        loop {
            let mut head = [0; 9];
            client.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            client.stream.read_exact(&mut payload).await.ok()?;
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match (head[3], head[8]) {
                (3, id) if id == stream => return Some(("RST_STREAM", code(0))),
                (7, _) if code(4) != 0 => return Some(("GOAWAY", code(4))),
                (1, id) if id == stream => return Some(("HEADERS", u32::from(payload[0]))),
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, find).await.expect("neither answered nor ended")
}

/// HEADERS of a POST that goes on; `more` are fields.
fn post(stream: u8, more: &[u8]) -> Vec<u8> {
    frame(1, 4, stream, &[b"\x83\x86\x84\x41\x01x", more].concat())
}

/// A field as a literal.
fn field(name: &str, value: &str) -> Vec<u8> {
    let (n, v) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
    [&[0, n], name.as_bytes(), &[v], value.as_bytes()].concat()
}

#[tokio::test]
async fn h55_h59_heads_that_are_none_end_their_stream() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for (what, block) in [
        ("an upper-case name", [&b"\x82\x86\x84\x41\x01x"[..], &field("X-A", "1")].concat()),
        ("a line feed in a value", [&b"\x82\x86\x84\x41\x01x"[..], &field("x-a", "1\n2")].concat()),
        ("a pseudo header behind a field", [&b"\x82\x86\x84"[..], &field("x-a", "1"), b"\x41\x01x"].concat()),
        ("an unknown pseudo header", [&b"\x82\x86\x84\x41\x01x"[..], &field(":x", "1")].concat()),
        ("no path", b"\x82\x86\x41\x01x".to_vec()),
        ("connection", [&b"\x82\x86\x84\x41\x01x"[..], &field("connection", "close")].concat()),
        ("transfer-encoding", [&b"\x82\x86\x84\x41\x01x"[..], &field("transfer-encoding", "chunked")].concat()),
        ("te other than trailers", [&b"\x82\x86\x84\x41\x01x"[..], &field("te", "gzip")].concat()),
    ] {
        let mut client = http2(&bed, &[frame(1, 5, 1, &block)]).await;
        let end = ends(&mut client, 1).await;
        assert!(matches!(end, Some(("RST_STREAM" | "GOAWAY", 1))), "{what}: {end:?}");
    }
    for (what, block) in [
        ("white space in :method", [&field(":method", "GET ")[..], b"\x86\x84\x41\x01x"].concat()),
        ("white space in :scheme", [&b"\x82"[..], &field(":scheme", "http "), b"\x84\x41\x01x"].concat()),
        ("white space in :path", [&b"\x82\x86"[..], &field(":path", "/ "), b"\x41\x01x"].concat()),
        ("white space in :authority", [&b"\x82\x86\x84"[..], &field(":authority", " x")].concat()),
        ("white space in a name", [&b"\x82\x86\x84\x41\x01x"[..], &field("x-a ", "1")].concat()),
        ("NUL", [&b"\x82\x86\x84\x41\x01x"[..], &field("x-a", "1\0")].concat()),
        ("DEL", [&b"\x82\x86\x84\x41\x01x"[..], &field("x-a", "\x7f")].concat()),
    ] {
        let mut client = http2(&bed, &[frame(1, 5, 1, &block)]).await;
        let end = ends(&mut client, 1).await;
        let is_400 = Some(("HEADERS", 0x8c));
        assert!(matches!(end, Some(("RST_STREAM" | "GOAWAY", 1))) || end == is_400, "{what}: {end:?}");
    }
    // Neither :authority nor host: 400.
    let mut client = http2(&bed, &[frame(1, 5, 1, b"\x82\x86\x84")]).await;
    assert_eq!(ends(&mut client, 1).await, Some(("HEADERS", 0x8c)));
    assert!(origin.untouched());
}

/// RFC 9113 part 8.2.1. A server of HTTP/1.1 would read the value without the white space, which the rules have not seen.
#[tokio::test]
async fn white_space_around_a_value_is_refused_over_http2_and_none_of_the_value_over_http1() {
    let mut origin = Origin::named("a").await;
    let mut route = crate::harness::catch_all();
    route["spec"]["rules"] = serde_json::json!([
        {"matches": [{"headers": [{"name": "x-role", "value": "admin"}]}],
         "filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}}]},
        {"backendRefs": [{"name": "a", "port": 80}],
         "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {
             "set": [{"name": "x-set", "value": " \tone two\t "}]}}]}]);
    let bed = Bed::new(crate::harness::any_listener(), serde_json::json!([route]), &[("a", &[origin.addr])]).await;
    let head = |name, value| [&b"\x82\x86\x84\x41\x01x"[..], &field(name, value)].concat();
    for value in [" admin", "admin ", "\tadmin", "admin\t", "  admin\t ", " ", "\t"] {
        for name in ["x-role", "cookie", "content-type", "x-forwarded-for"] {
            let mut client = http2(&bed, &[frame(1, 5, 1, &head(name, value))]).await;
            assert_eq!(ends(&mut client, 1).await, Some(("HEADERS", 0x8c)), "{name}: {value:?}");
        }
    }
    assert!(origin.untouched());
    // Within a value it is part of it, and a value may be empty.
    for value in ["ad \tmin", ""] {
        let mut client = http2(&bed, &[frame(1, 5, 1, &head("x-role", value))]).await;
        assert_eq!(ends(&mut client, 1).await, Some(("HEADERS", 0x88)), "{value:?}");
        let seen = origin.next().await;
        assert_eq!((header(&seen, "x-role"), header(&seen, "x-set")), (Some(value), Some("one two")));
        assert!(seen.contains("x-set: one two\r\n"), "{seen}");
    }
    for value in [" admin", "\t admin \t"] {
        let answer = bed.get("/", "x", &format!("X-Role:{value}\r\n")).await;
        assert_eq!(crate::harness::status(&answer), 301, "{value:?}");
    }
}

/// The same of trailers: the request never ends upstream.
#[tokio::test]
async fn white_space_around_a_value_of_a_trailer_cuts_the_request() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let trailers = |value| frame(1, 5, 1, &field("x-after", value));
    let mut client = http2(&bed, &[post(1, &[]), frame(0, 0, 1, b"abc"), trailers("1")]).await;
    assert_eq!(ends(&mut client, 1).await, Some(("HEADERS", 0x88)));
    assert!(origin.next().await.contains("abc"));
    for value in [" 1", "1\t"] {
        for more in [field("te", "trailers"), Vec::new()] {
            let mut client = http2(&bed, &[post(1, &more), frame(0, 0, 1, b"abc"), trailers(value)]).await;
            assert_eq!(ends(&mut client, 1).await, Some(("HEADERS", 0x8c)), "{value:?}");
            while let Ok(seen) = origin.seen.try_recv() {
                assert!(seen.starts_with("CUT "), "{seen}");
            }
        }
    }
}

#[tokio::test]
async fn h56_a_length_that_the_data_contradicts_ends_the_stream_and_never_cleanly_upstream() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let two = [field("content-length", "2"), field("content-length", "3")].concat();
    for (what, frames) in [
        ("more", [post(1, &field("content-length", "2")), frame(0, 1, 1, b"abc")]),
        ("less", [post(1, &field("content-length", "4")), frame(0, 1, 1, b"abc")]),
        ("two", [post(1, &two), frame(0, 1, 1, b"abc")]),
    ] {
        let mut client = http2(&bed, &frames).await;
        let end = ends(&mut client, 1).await;
        assert!(matches!(end, Some(("RST_STREAM", 1)) | Some(("HEADERS", 0x8c))), "{what}: {end:?}");
    }
    let mut client =
        http2(&bed, &[frame(1, 5, 1, &[b"\x83\x86\x84\x41\x01x", &field("content-length", "4")[..]].concat())]).await;
    assert_eq!(ends(&mut client, 1).await, Some(("RST_STREAM", 1)), "END_STREAM");
    while let Ok(seen) = origin.seen.try_recv() {
        assert!(seen.starts_with("CUT "), "{seen}");
    }
}

#[tokio::test]
async fn h63_streams_beyond_the_bound_are_refused() {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        let _ = client.rest().await;
    })
    .await;
    let settings = sluice::proxy::Settings { max_streams: 3, ..Default::default() };
    let (listeners, routes) = (crate::harness::any_listener(), serde_json::json!([crate::harness::catch_all()]));
    let bed = Bed::with(settings, listeners, routes, &[("a", &[origin.addr])]).await;
    let mut client = http2(&bed, &[1, 3, 5].map(get)).await;
    for _ in 0..3 {
        origin.next().await;
    }
    client.send(get(7)).await;
    assert_eq!(ends(&mut client, 7).await, Some(("RST_STREAM", 7)), "REFUSED_STREAM");
}

#[tokio::test]
async fn h64_h66_h67_floods_that_h2_bounds_end_the_connection() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let part = field("x-filler", &"a".repeat(100)).repeat(100);
    let continuations = [vec![frame(1, 1, 1, b"\x82\x86\x84\x41\x01x")], vec![frame(9, 0, 1, &part); 30]].concat();
    let empty = [vec![post(1, &[])], vec![frame(0, 0, 1, b""); 2000]].concat();
    let overflow = vec![post(1, &[]), frame(8, 0, 1, &0x7fff_ffff_u32.to_be_bytes())];
    for (what, frames) in [("CONTINUATION", continuations), ("empty DATA", empty), ("window overflow", overflow)] {
        let mut client = http2(&bed, &[]).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &frames.concat()).await;
        let end = ends(&mut client, 1).await;
        assert!(!matches!(end, Some(("HEADERS", 0x88))), "{what}: {end:?}");
    }
}

#[tokio::test]
async fn h65_a_large_list_of_fields_is_431_and_its_size_is_a_setting() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    // One field in the table, then named a thousand times by one byte each: 100 KB of fields.
    let bomb = |times: usize| {
        let indexed = [&b"\x40\x06cookie"[..], &[100], &[b'a'; 100]].concat();
        frame(1, 5, 1, &[&b"\x82\x86\x84\x41\x01x"[..], &indexed, &vec![0xbe; times]].concat())
    };
    let mut client = http2(&bed, &[bomb(1000)]).await;
    let end = ends(&mut client, 1).await;
    assert!(!matches!(end, Some(("HEADERS", 0x88)) | None), "{end:?}");
    assert!(origin.untouched());
    let mut client = http2(&bed, &[bomb(100)]).await;
    assert_eq!(ends(&mut client, 1).await, Some(("HEADERS", 0x88)));
    let cookie = origin.next().await;
    assert_eq!(header(&cookie, "cookie").map(str::len), Some(101 * 102 - 2));
}

#[tokio::test]
async fn h68_h69_h70_floods_of_what_h2_answers_or_ignores_close_the_connection() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for (what, one) in [
        ("PING", frame(6, 0, 0, b"12345678")),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 1])),
    ] {
        let client = http2(&bed, &[one.repeat(100), get(1)]).await;
        let (mut read, mut write) = client.stream.into_split();
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = read.read_to_end(&mut all).await;
            all.len()
        });
        let flood = one.repeat(1000);
        let mut sent = 0;
        while sent < 100 && tokio::io::AsyncWriteExt::write_all(&mut write, &flood).await.is_ok() {
            sent += 1;
        }
        // Some fit into the buffers of both kernels after the proxy has closed.
        assert!(tokio::time::timeout(SOON, reading).await.is_ok(), "{what}: not closed");
    }
    crate::harness::until("all are closed", || bed.stats.sum(|s| &s.active_connections) == 0).await;
}
