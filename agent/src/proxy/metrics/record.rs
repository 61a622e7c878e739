//! One request, as far as it is told of when it is over.
//!
//! It goes with [`crate::proxy::io::Active`]: from the head to the end of the response's body, or to the moment at which the client
//! is gone; dropped, it is counted.
use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method};

use super::route::{Finished, RouteCounts, UNKNOWN, method};
use crate::proxy::{
    access_log::{Line, Outcome},
    balance::Moment,
    body::Flow,
};

/// Who cut a response that had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Cut {
    /// The client, which is gone, or the end of the process.
    Client = 0,
    /// The backend broke off.
    Backend = 1,
    /// The route's time was up.
    Timeout = 2,
}

/// What became of the endpoints that a request was sent to.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::proxy) struct Attempts {
    /// Tries beyond the first.
    pub retries: u32,
    /// The last of them.
    pub endpoint: Option<SocketAddr>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Record {
    began: Moment,
    method: u8,
    /// Where it is counted; nowhere before its rule is known.
    pub counts: Option<Arc<RouteCounts>>,
    /// The status of the response's head, once there is one.
    pub status: Option<u16>,
    /// It is gRPC.
    pub is_grpc: bool,
    grpc: Option<u8>,
    /// The body has come to its end.
    is_whole: bool,
    cut: Option<Cut>,
    /// Of the response's body. Units: bytes.
    sent: u64,
    /// Where it is known how much of the request's body has come.
    pub flow: Flow,
    /// Where it was sent.
    pub attempts: Attempts,
    /// Why the proxy answered itself, if it did.
    pub reason: Option<&'static str>,
    /// What is logged of it, if anything.
    pub line: Option<Box<Line>>,
}

impl Record {
    /// A request that begins now.
    #[must_use]
    pub(in crate::proxy) fn begin(asked: &Method) -> Self {
        Self {
            began: Moment::now(),
            method: method(asked),
            counts: None,
            status: None,
            is_grpc: false,
            grpc: None,
            is_whole: false,
            cut: None,
            sent: 0,
            flow: Flow::default(),
            attempts: Attempts::default(),
            reason: None,
            line: None,
        }
    }

    /// The tunnel that a request becomes: it is logged when that ends, and counted without it.
    #[must_use]
    pub(in crate::proxy) fn take_tunnel(&mut self, status: u16) -> Self {
        let mut tunnel = Self::begin(&Method::CONNECT);
        (tunnel.began, tunnel.attempts, tunnel.line) = (self.began, self.attempts, self.line.take());
        (tunnel.status, tunnel.is_whole) = (Some(status), true);
        tunnel
    }

    /// Whether a response to this request has no body whatever its head says, so that nobody looks for its end.
    #[must_use]
    pub(in crate::proxy) fn is_bodiless(&self) -> bool {
        self.method == method(&Method::HEAD) || matches!(self.status, Some(101 | 204 | 304))
    }

    /// Some of the response's body goes to the client.
    pub(in crate::proxy) fn gives(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// All of it has gone.
    pub(in crate::proxy) fn ends(&mut self) {
        self.is_whole = true;
    }

    /// It ends early.
    pub(in crate::proxy) fn cut(&mut self, by: Cut) {
        self.cut = Some(by);
    }

    /// A head or trailers that may say what became of a call of gRPC.
    pub(in crate::proxy) fn read_status(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get("grpc-status").filter(|_| self.is_grpc) {
            let code = value.to_str().ok().and_then(|text| text.parse().ok());
            self.grpc = Some(code.filter(|code| usize::from(*code) < super::GRPC_CODES.len()).unwrap_or(UNKNOWN));
        }
    }

    fn finished(&self) -> Finished {
        let cut = self.cut.or_else(|| (!self.is_whole && self.status.is_some()).then_some(Cut::Client));
        Finished {
            method: self.method,
            status: self.status,
            // Who has seen none of it does not count as having been told.
            grpc: self.grpc.or_else(|| (self.is_grpc && self.is_whole).then_some(UNKNOWN)),
            cut,
            received: self.flow.received(),
            sent: self.sent,
            took: Moment::now().since(self.began),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.counts.is_none() && self.line.is_none() {
            return;
        }
        let finished = self.finished();
        if let Some(counts) = &self.counts {
            counts.count(finished);
        }
        if let Some(line) = self.line.take() {
            let Finished { method: _, status, grpc, cut, received, sent, took } = finished;
            let (reason, attempts) = (self.reason, self.attempts);
            line.end(Outcome { status, grpc, cut, reason, received, sent, took, attempts });
        }
    }
}
