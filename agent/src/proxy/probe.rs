//! One request head through the canonical form and the route table, without a connection: what `cargo xtask bench heads`
//! measures and the work test counts.
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};

use http::{StatusCode, request::Parts};

use super::{
    headers::Ends,
    hops::{HopFault, Hops},
    request::{self, Arrival, Scheme},
    router::{Routed, Site},
    settings::Settings,
};
use crate::model::http::{HttpModel, RequestHead, limits::Limits};

/// The routes of one frontend.
#[derive(Debug)]
pub struct Probe {
    site: Site,
    ends: Ends,
}

impl Probe {
    /// The routes of a model's first frontend; `None` when it has none.
    #[must_use]
    pub fn new(model: &HttpModel) -> Option<Self> {
        let (&local, listeners) = model.frontends.first_key_value()?;
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let ends = Ends::new(peer, local, Scheme::Http);
        Some(Self { site: Site::new(listeners.clone()), ends })
    }

    /// Brings a head into its canonical form and finds its rule: which of its route, from 0.
    ///
    /// # Errors
    /// With the status that the client gets.
    pub fn route(&self, parts: &mut Parts) -> Result<usize, StatusCode> {
        let Limits { length_beside_chunked, underscores, .. } = Limits::default();
        let arrival = Arrival {
            ends: &self.ends,
            has_body: false,
            max_fields: Settings::default().max_headers,
            doubt: None,
            length_beside_chunked,
            underscores,
        };
        let canonical = request::canonicalise(parts, arrival).map_err(|refusal| refusal.status)?;
        let hops = Hops::of(&parts.headers).map_err(|fault| match fault {
            HopFault::Loop => StatusCode::LOOP_DETECTED,
            HopFault::Long => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        })?;
        let head = RequestHead {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        let found = match self.site.route(&canonical.host, &head) {
            Routed::Entry(entry) => Ok(entry.rule.index),
            Routed::NoListener | Routed::NoEntry => Err(StatusCode::NOT_FOUND),
        };
        request::leave_hop(&mut parts.headers, canonical.trailers, true);
        hops.write(&mut parts.headers);
        found
    }
}
