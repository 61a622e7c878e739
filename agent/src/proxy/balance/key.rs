//! Which key a request has, where endpoints are chosen by one.
use std::net::IpAddr;

use http::HeaderMap;

use crate::{
    model::http::balance::{Balancer, HashKey},
    proxy::session,
    stable,
};

/// The key of a request; `None` where endpoints are chosen otherwise, or the request has none.
#[must_use]
pub(in crate::proxy) fn key(balancer: &Balancer, headers: &HeaderMap, peer: IpAddr) -> Option<u64> {
    let Balancer::ConsistentHash(key) = balancer else { return None };
    match key {
        // Whom a trusted proxy names is the client.
        HashKey::Client => {
            let told = headers.get("x-real-ip").and_then(|value| value.to_str().ok()?.parse().ok());
            let client: IpAddr = told.unwrap_or(peer);
            Some(match client {
                IpAddr::V4(v4) => stable::hash(&v4.octets()),
                IpAddr::V6(v6) => stable::hash(&v6.octets()),
            })
        }
        HashKey::Header(name) => headers.get(name).map(|value| stable::hash(value.as_bytes())),
        HashKey::Cookie(name) => session::cookie(headers, name).map(stable::hash),
    }
}
