//! Bodies on their way through: frame by frame, never collected, with the limits that belong to them.
//!
//! ```text
//! client -> request (clock, pace, kept for another try) -> endpoint -> response (deadline, connection back to its pool) -> client
//! ```
//!
//! Backpressure is hyper's: a frame is taken from one side when the other side has room for it.
mod flow;
mod request;
mod response;
mod trailing;

pub(super) use self::{
    flow::Flow,
    request::{RequestBody, Spare},
    response::ResponseBody,
};

/// Why a body ended early. The side that reads it sees a cut connection, never a clean end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyFault {
    /// The other side broke off or sent something malformed.
    #[error("the sender broke off")]
    Broken(#[source] hyper::Error),
    /// The trailers are none of HTTP/2.
    #[error("a trailer's value begins or ends with white space")]
    Malformed,
    /// No progress for too long.
    #[error("no progress")]
    Stalled,
    /// The route's time is up.
    #[error("the route's timeout is over")]
    Timeout,
    /// A mirror did not keep up with the body that it gets a copy of, or that one did not end well.
    #[error("the copy was cut")]
    CopyCut,
    /// The try that this is for was given up.
    #[error("the body is read by another try")]
    Superseded,
    /// The stream was reset without error before its end.
    #[error("the stream was reset before its end")]
    Cut,
}
