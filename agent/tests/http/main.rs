//! The proxy over real sockets: raw bytes in, raw bytes out. `h20_...` names case H20 of the HTTP checklist.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, missing_docs, reason = "tests and their harness")]

mod backend_tls;
mod balancing;
mod bodies;
mod bounds;
mod client_certificates;
mod clients;
mod conventions;
mod cors;
mod examples;
mod filters;
mod frames;
mod framing;
mod grpc;
mod grpc_routes;
mod h2c;
mod harness;
mod http2;
mod http2_origin;
mod lenient;
mod limits;
mod local;
mod metrics;
mod mirrors;
mod proxying;
mod resting;
mod retries;
mod routing;
mod sessions;
mod streams;
mod tls;
mod tls_origin;
mod under_tls;
mod vanish;
mod websocket;
mod workers;
