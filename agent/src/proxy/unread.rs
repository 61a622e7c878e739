//! What is left of a request's body when the proxy answers by itself.
//!
//! The next request begins behind it. So it is read and thrown away, if it is small and comes soon; else the answer says that
//! the connection closes, and the close waits for the client to have read that: closed over unread bytes, a socket is
//! reset, and what was on its way to the client is lost. HTTP/2 resets the stream and needs none of this.
use std::time::Duration;

use http::{Response, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{body::ResponseBody, respond};

/// How much is read for the sake of the connection. Beyond it the connection closes. Units: bytes.
const MOST: u64 = 256 << 10;
/// How long the client may take to send it. Then the connection closes.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A request whose body nobody has read.
#[derive(Debug)]
pub(super) struct Unread {
    /// The body.
    pub body: Incoming,
    /// The client waits for `100 Continue` before it sends it.
    pub expects: bool,
    /// The request's.
    pub version: Version,
}

impl Unread {
    /// Reads it, or has the answer say that the connection closes.
    pub(super) async fn settle(self, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let Self { mut body, expects, version } = self;
        if body.is_end_stream() || version == Version::HTTP_2 || respond::is_closing(&response) {
            return response;
        }
        // Who waits is not asked for a body that nobody wants, and may send it unasked (RFC 9110 part 10.1.1).
        let is_read = !expects
            && body.size_hint().lower() <= MOST
            && tokio::time::timeout(TIMEOUT, read(&mut body)).await.unwrap_or(false);
        if is_read { response } else { respond::closing(response) }
    }
}

/// Whether the body ended well before it was too long.
async fn read(body: &mut Incoming) -> bool {
    let mut left = MOST;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}
