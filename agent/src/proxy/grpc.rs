//! What gRPC wants of a proxy: errors in its form, and deadlines.
//!
//! An error of gRPC is a response 200 with `grpc-status` and `grpc-message` and without body ("trailers only"). To a client that
//! sent gRPC every local reply is one. Source: gRPC over HTTP/2 (PROTOCOL-HTTP2), statuscodes of gRPC.
use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;

pub(super) use crate::model::http::matching::is_grpc;

use super::{
    body::{BodyFault, ResponseBody},
    respond::{self, LocalReply},
};

/// How long a request may take. Units: up to eight digits and one of `H M S m u n`.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A status of gRPC, as far as a proxy has one to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The time is up.
    DeadlineExceeded = 4,
    /// Overload: no further connection, too large a head.
    ResourceExhausted = 8,
    /// No route; a backend that cannot be spoken to in gRPC.
    Unimplemented = 12,
    /// The request is malformed.
    Internal = 13,
    /// No endpoint, or none that could be reached.
    Unavailable = 14,
}

/// How much earlier than ours the clock of an endpoint may ring, which was told what is left of a call's time.
const CLOCKS: Duration = Duration::from_millis(20);

/// Whether an endpoint that breaks off a call has done so because the call's time is up.
#[must_use]
pub(super) fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|at| at <= Instant::now() + CLOCKS)
}

/// Whether a response says that the server did not take the request.
#[must_use]
pub(super) fn is_unavailable(headers: &HeaderMap) -> bool {
    headers.get(STATUS).is_some_and(|status| status == "14")
}

/// A local reply in the form of gRPC.
#[must_use]
pub(super) fn reply(local: LocalReply) -> Response<ResponseBody> {
    let LocalReply { status, reason, closes, code } = local;
    let mut response = Response::new(ResponseBody::own(""));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(code.unwrap_or_else(|| of(status)) as u16));
    headers.extend(HeaderValue::try_from(percent(reason)).ok().map(|reason| (MESSAGE, reason)));
    if closes { respond::closing(response) } else { response }
}

/// The trailers that end a response which has begun; `None` where the client is the cause.
#[must_use]
pub(super) fn ending(fault: &BodyFault) -> Option<HeaderMap> {
    let (code, message) = match fault {
        BodyFault::Timeout => (Code::DeadlineExceeded, "the time of the call is over: the route's timeout, or its own"),
        BodyFault::Broken(_) | BodyFault::Cut => (Code::Unavailable, "the backend broke off"),
        BodyFault::Malformed | BodyFault::Stalled | BodyFault::CopyCut | BodyFault::Superseded => return None,
    };
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(code as u16));
    trailers.insert(MESSAGE, HeaderValue::from_static(message));
    Some(trailers)
}

/// What a status of HTTP is in gRPC.
#[must_use]
pub(super) fn of(status: StatusCode) -> Code {
    match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::PAYLOAD_TOO_LARGE => {
            Code::ResourceExhausted
        }
        status if status.is_server_error() && status != StatusCode::LOOP_DETECTED => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// Printable ASCII as it is, the rest in percent-encoding.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => _ = write!(out, "%{byte:02X}"),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// The client's deadline; `None` where it says none, or nonsense.
#[must_use]
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Says what is left of a deadline, for the next hop.
pub(super) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    const MOST: u128 = 99_999_999;
    let units = [("n", left.as_nanos().max(1)), ("u", left.as_micros()), ("m", left.as_millis())];
    let text = units
        .into_iter()
        .find(|(_, number)| *number <= MOST)
        .map_or_else(|| format!("{}S", left.as_secs().min(99_999_999)), |(unit, number)| format!("{number}{unit}"));
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.insert(TIMEOUT, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn grpc_is_told_by_its_content_type_and_grpc_web_is_none() {
        for (value, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&with(header::CONTENT_TYPE, value)), want, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn deadlines_are_read_and_written() {
        for (value, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("123456789n", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1.5S", None),
            ("1s", None),
        ] {
            assert_eq!(timeout(&with(TIMEOUT, value)), want, "{value:?}");
        }
        for (left, want) in [
            (Duration::ZERO, "1n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_secs(1), "1000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
        ] {
            let mut headers = with(TIMEOUT, "9H");
            set_timeout(&mut headers, left);
            assert_eq!(headers.get_all(TIMEOUT).iter().collect::<Vec<_>>(), [want]);
            assert!(timeout(&headers).is_some());
        }
    }

    #[test]
    fn a_local_reply_becomes_a_status_of_grpc() {
        let response = reply(LocalReply::new(StatusCode::NOT_FOUND, "100 % n\u{f6}"));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-message"], "100 %25 n%C3%B6");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(http_body::Body::is_end_stream(response.body()));
        let full =
            LocalReply { code: Some(Code::ResourceExhausted), ..LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "") };
        assert_eq!(reply(full).headers()["grpc-status"], "8");
    }
}
