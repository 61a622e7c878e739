//! Why there is no response from upstream, what a client hears of it, and what it says of the endpoint.
use http::StatusCode;

use crate::proxy::{body::BodyFault, grpc, metrics::TryOutcome};

/// Why there is no response from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Failure {
    /// The Service port has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected.
    Unreachable,
    /// Endpoints could be connected, and with none was TLS made as their policy wants it.
    Untrusted,
    /// Nobody may speak to the endpoints: their policy cannot be obeyed.
    Barred,
    /// This process has no descriptor, port or place left for another connection, or the endpoints have their part.
    Exhausted,
    /// The Gateway has its part of them.
    Taken,
    /// The endpoint broke off, or what it said is no response.
    Broken,
    /// The endpoint takes no request.
    Refused,
    /// The backend has as many retries as it shall have to bear.
    OverBudget,
    /// The endpoint speaks HTTP/2 without extended CONNECT.
    NoWebSocket,
    /// It is gRPC, and the endpoints choose HTTP/1.1.
    NoHttp2,
    /// The route's time is up.
    Timeout,
    /// The client's body broke off.
    ClientBroken,
    /// The client's body made no progress.
    ClientStalled,
}

impl Failure {
    /// What the client gets.
    pub(in crate::proxy) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NoEndpoint => (StatusCode::SERVICE_UNAVAILABLE, "the backend has no ready endpoint"),
            Self::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, "no endpoint of the backend could be connected"),
            Self::Untrusted => {
                (StatusCode::BAD_GATEWAY, "no endpoint of the backend could be trusted: TLS with it failed")
            }
            Self::Barred => (StatusCode::INTERNAL_SERVER_ERROR, "the TLS policy of the backend cannot be obeyed"),
            Self::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "the proxy can open no further connection"),
            Self::Taken => {
                (StatusCode::SERVICE_UNAVAILABLE, "the Gateway has as many connections to backends as it may have")
            }
            Self::Broken => (StatusCode::BAD_GATEWAY, "the backend broke off or sent no valid response"),
            Self::Refused => (StatusCode::SERVICE_UNAVAILABLE, "the backend takes no further request"),
            Self::OverBudget => (StatusCode::SERVICE_UNAVAILABLE, "the backend's budget of retries is used up"),
            Self::NoWebSocket => (StatusCode::NOT_IMPLEMENTED, "the backend takes no WebSocket over HTTP/2"),
            Self::NoHttp2 => (
                StatusCode::NOT_IMPLEMENTED,
                "gRPC needs a backend of HTTP/2, and no endpoint of this one chooses it by ALPN",
            ),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the backend did not answer in time"),
            Self::ClientBroken => (StatusCode::BAD_REQUEST, "the request's body is malformed or incomplete"),
            Self::ClientStalled => (StatusCode::REQUEST_TIMEOUT, "the request's body made no progress"),
        }
    }

    /// What a gRPC client gets, where the status does not say it.
    pub(in crate::proxy) fn code(self) -> Option<grpc::Code> {
        matches!(self, Self::Exhausted | Self::Taken).then_some(grpc::Code::ResourceExhausted)
    }

    /// What it is to the endpoint that was tried; `None` where that has had nothing of it.
    pub(super) fn outcome(self) -> Option<TryOutcome> {
        match self {
            Self::Broken => Some(TryOutcome::Broken),
            Self::Refused => Some(TryOutcome::Refused),
            Self::Timeout => Some(TryOutcome::Timeout),
            Self::ClientBroken | Self::ClientStalled => Some(TryOutcome::Aborted),
            Self::NoEndpoint
            | Self::Unreachable
            | Self::Untrusted
            | Self::Barred
            | Self::Exhausted
            | Self::Taken
            | Self::OverBudget
            | Self::NoWebSocket
            | Self::NoHttp2 => None,
        }
    }

    /// Whose fault it is that a request did not get through.
    pub(super) fn of(error: &hyper::Error) -> Self {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if cause.downcast_ref::<h2::Error>().is_some_and(is_unprocessed) {
                return Self::Refused;
            }
            match cause.downcast_ref::<BodyFault>() {
                Some(BodyFault::Broken(_) | BodyFault::Malformed) => return Self::ClientBroken,
                Some(BodyFault::Stalled) => return Self::ClientStalled,
                Some(BodyFault::Timeout) => return Self::Timeout,
                Some(BodyFault::CopyCut | BodyFault::Superseded | BodyFault::Cut) => return Self::Broken,
                None => source = cause.source(),
            }
        }
        Self::Broken
    }
}

/// Whether the endpoint says that it did nothing with a request. Source: RFC 9113 parts 6.8 and 8.7.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}
