//! What hyper does not do for HTTP/1.1, done on the bytes below it.
//!
//! [`RequestLines`] stands between a client's stream and hyper and escapes what the `http` crate takes for no target;
//! [`TrailerWriter`] stands below hyper on both sides of the proxy and writes trailers that no head declared. Both know
//! hyper's place in the bytes for certain, or leave them as they are.
mod boundary;
mod request_lines;
mod trailers;

pub(super) use boundary::{Announced, Doubt};
pub(super) use request_lines::{RequestLines, SLACK};
pub(super) use trailers::{TrailerWriter, Trailers};
