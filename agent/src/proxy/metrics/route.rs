//! What is counted of the requests of one rule.
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::Method;

use super::{
    bump,
    histogram::{Distribution, Histogram},
    record::Cut,
};
use crate::api::{ObjectName, RouteKind};

/// The methods that are told apart. What else clients send is the last.
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];
/// The classes of statuses, and requests whose client left before there was one.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];
/// The statuses of gRPC. Source: statuscodes of gRPC; there is no other, and one that is missing means UNKNOWN.
pub const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// What a status of gRPC is that is missing or that nobody knows.
pub(super) const UNKNOWN: u8 = 2;
/// Who cut a response that had begun.
pub const CUTS: [&str; 3] = ["client", "backend", "timeout"];

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Those of a rule.
    Rule {
        /// The Gateway that they came in by.
        gateway: ObjectName,
        /// Whether it is of a HTTPRoute or of a GRPCRoute.
        kind: RouteKind,
        /// The route.
        route: ObjectName,
        /// Which of its rules, from 0.
        rule: usize,
    },
    /// Those of a Gateway that had no rule: refused, or for nobody.
    Unrouted(ObjectName),
    /// Those of all that came when there were as many series as there may be.
    Other,
}

/// Where a method is in [`METHODS`].
#[must_use]
pub(super) fn method(method: &Method) -> u8 {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ => 9,
    }
}

/// The counts of one worker, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(in crate::proxy) struct RouteCounts {
    /// By [`METHODS`] and [`CLASSES`].
    requests: [[AtomicU64; CLASSES.len()]; METHODS.len()],
    durations: Histogram,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    cuts: [AtomicU64; CUTS.len()],
    /// By [`GRPC_CODES`]; only where there was some gRPC.
    grpc: OnceLock<Box<[AtomicU64; GRPC_CODES.len()]>>,
}

/// What is known of a request when it is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    /// As in [`METHODS`].
    pub method: u8,
    /// `None`: the client left before there was one.
    pub status: Option<u16>,
    /// That of gRPC.
    pub grpc: Option<u8>,
    /// Who cut the response, if anybody.
    pub cut: Option<Cut>,
    /// Of its bodies. Units: bytes.
    pub received: u64,
    pub sent: u64,
    pub took: std::time::Duration,
}

impl RouteCounts {
    /// Counts a request.
    pub(super) fn count(&self, finished: Finished) {
        let Finished { method, status, grpc, cut, received, sent, took } = finished;
        let class = status.map_or(CLASSES.len() - 1, |status| usize::from(status / 100).clamp(1, 5) - 1);
        bump(&self.requests[usize::from(method)][class], 1);
        self.durations.observe(took);
        if received > 0 {
            bump(&self.request_bytes, received);
        }
        if sent > 0 {
            bump(&self.response_bytes, sent);
        }
        if let Some(cut) = cut {
            bump(&self.cuts[cut as usize], 1);
        }
        if let Some(code) = grpc {
            bump(&self.grpc.get_or_init(Box::default)[usize::from(code)], 1);
        }
    }
}

/// The counts of all workers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMetrics {
    /// By [`METHODS`] and [`CLASSES`].
    pub requests: [[u64; CLASSES.len()]; METHODS.len()],
    /// From the request's head to the end of the response.
    pub durations: Distribution,
    /// Of requests' bodies. Units: bytes.
    pub request_bytes: u64,
    /// Of responses' bodies. Units: bytes.
    pub response_bytes: u64,
    /// By [`CUTS`].
    pub cuts: [u64; CUTS.len()],
    /// By [`GRPC_CODES`].
    pub grpc: [u64; GRPC_CODES.len()],
}

impl RouteMetrics {
    /// Adds those of one worker.
    pub(super) fn add(&mut self, of: &RouteCounts) {
        let RouteCounts { requests, durations, request_bytes, response_bytes, cuts, grpc } = of;
        let all = self.requests.iter_mut().flatten().zip(requests.iter().flatten());
        let all = all.chain(self.cuts.iter_mut().zip(cuts));
        let all = all.chain(self.grpc.iter_mut().zip(grpc.get().into_iter().flat_map(|codes| codes.iter())));
        all.for_each(|(sum, one)| *sum += one.load(Relaxed));
        self.durations.add(durations);
        self.request_bytes += request_bytes.load(Relaxed);
        self.response_bytes += response_bytes.load(Relaxed);
    }
}
