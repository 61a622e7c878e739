//! WebSocket over HTTP/1.1 and HTTP/2: one opening handshake is turned into the other.
//!
//! Over HTTP/1.1 a client asks with GET and `Upgrade: websocket`, and proves with a key that the server understood (RFC 6455); over
//! HTTP/2 it asks with CONNECT and `:protocol`, without a key, and is answered 200 (RFC 8441). To rules both are a GET. Where the
//! client has no key the proxy makes one, and checks the answer; where the backend wants none, the proxy answers the client's.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, Response, StatusCode, Version, header, request::Parts};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::headers;

const WEBSOCKET: &str = "websocket";
/// What a server adds to a key before it hashes it. Source: RFC 6455 part 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Turns the extended CONNECT of an HTTP/2 client into a GET; whether it was one.
pub(super) fn take_connect(parts: &mut Parts) -> bool {
    let is_asked = parts.version == Version::HTTP_2
        && parts.method == Method::CONNECT
        && parts.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str() == WEBSOCKET);
    if is_asked {
        parts.method = Method::GET;
        parts.extensions.remove::<Protocol>();
    }
    is_asked
}

/// Gives a request that [`Handshake::begin`] made the form in which a backend is asked over HTTP/2, where it is one.
pub(super) fn connect(parts: &mut Parts) {
    if parts.extensions.get::<Protocol>().is_some() {
        parts.method = Method::CONNECT;
        parts.headers.remove(header::SEC_WEBSOCKET_KEY);
    }
}

/// A handshake under way.
#[derive(Debug)]
pub(super) struct Handshake {
    /// Becomes the client's stream.
    pub(super) client: OnUpgrade,
    /// The client's version.
    version: Version,
    /// The backend was asked over HTTP/2.
    over_http2: bool,
    /// The client's key, or the one that was made for it.
    key: HeaderValue,
}

impl Handshake {
    /// Gives a request the form in which a backend is asked over HTTP/1.1; [`connect`] makes of it that of HTTP/2.
    #[must_use]
    pub(super) fn begin(client: OnUpgrade, version: Version, parts: &mut Parts) -> Self {
        let headers = &mut parts.headers;
        headers.remove(header::TE);
        let is_new = version == Version::HTTP_2;
        let key = match headers.remove(header::SEC_WEBSOCKET_KEY).filter(|_| !is_new) {
            Some(key) => key,
            None => new_key(),
        };
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
        headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
        parts.extensions.insert(Protocol::from_static(WEBSOCKET));
        Self { client, version, over_http2: false, key }
    }

    /// Says which version the backend was asked over.
    pub(super) fn asked(&mut self, over_http2: bool) {
        self.over_http2 = over_http2;
    }

    /// What must be answered: by the backend where the client had no key, by the proxy where the backend gets none.
    fn accept(&self) -> Option<HeaderValue> {
        ((self.version == Version::HTTP_2) != self.over_http2).then(|| accept(&self.key))
    }

    /// Whether a backend has switched; the client gets other responses as they are.
    ///
    /// # Errors
    /// What is wrong with its answer.
    pub(super) fn switched<B>(&self, response: &Response<B>) -> Result<bool, &'static str> {
        let status = response.status();
        match (self.over_http2, status) {
            (false, StatusCode::SWITCHING_PROTOCOLS) => {
                let (want, proof) = (self.accept(), response.headers().get(header::SEC_WEBSOCKET_ACCEPT));
                if !headers::has_token(response.headers(), &header::UPGRADE, WEBSOCKET) {
                    Err("the backend switched protocols unasked")
                } else if want.is_some() && want.as_ref() != proof {
                    Err("the backend did not understand the WebSocket handshake")
                } else {
                    Ok(true)
                }
            }
            (true, status) if status.is_success() => Ok(true),
            // To a CONNECT each 2xx would say that the stream is a WebSocket.
            (false, status) if self.version == Version::HTTP_2 && status.is_success() => {
                Err("the backend did not switch to WebSocket")
            }
            (true | false, _) => Ok(false),
        }
    }

    /// Gives the head of the answer its form for the client.
    pub(super) fn answer<B>(&self, response: &mut Response<B>) {
        headers::remove_hop_by_hop(response.headers_mut());
        let is_new = self.version == Version::HTTP_2;
        *response.status_mut() = if is_new { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        let headers = response.headers_mut();
        if is_new {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            headers.remove(header::CONTENT_LENGTH);
            return;
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
        if let Some(accept) = self.accept() {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

fn new_key() -> HeaderValue {
    let nonce: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
    HeaderValue::try_from(STANDARD.encode(nonce)).expect("base64 is a header value")
}

fn accept(key: &HeaderValue) -> HeaderValue {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::try_from(STANDARD.encode(hash)).expect("base64 is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_rfc_shows() {
        assert_eq!(accept(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_ne!(new_key(), new_key());
        assert_eq!(STANDARD.decode(new_key()).unwrap().len(), 16);
    }

    #[test]
    fn a_connect_of_another_protocol_stays_one() {
        let asked = |version, method: Method, protocol: Option<&'static str>| {
            let (mut parts, ()) = http::Request::new(()).into_parts();
            (parts.version, parts.method) = (version, method);
            protocol.map(|name| parts.extensions.insert(Protocol::from_static(name)));
            (take_connect(&mut parts), parts.method)
        };
        assert_eq!(asked(Version::HTTP_2, Method::CONNECT, Some("websocket")), (true, Method::GET));
        assert_eq!(asked(Version::HTTP_2, Method::CONNECT, Some("connect-udp")), (false, Method::CONNECT));
        assert_eq!(asked(Version::HTTP_2, Method::CONNECT, None), (false, Method::CONNECT));
        assert_eq!(asked(Version::HTTP_11, Method::CONNECT, Some("websocket")), (false, Method::CONNECT));
    }
}
