//! Cross-origin requests: preflights are answered here, and responses say whose pages may use them.
//!
//! # Design
//! - The filter has the last word: what a backend says in `Access-Control-*` of its own is taken away.
//! - A preflight from an origin that is not let is answered 403, not sent on: who looks at it sees who refused. A preflight is
//!   routed as any request is, so a rule that wants another method than OPTIONS never sees it.
//! - Of what the client has sent, only an origin, a method and field names that parse as such are said back.
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};

use super::{body::ResponseBody, respond};
use crate::model::http::{
    Filter,
    cors::{Cors, Listed, Origins},
    work::work,
};

/// How many field names of a preflight are said back. Beyond it none is, and the browser refuses.
const MOST_NAMES: usize = 64;

/// What a backend says and the filter says instead.
const OF_RESPONSES: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// What a CORS filter says of a request's origin.
#[derive(Debug)]
pub(super) struct Grant<'a> {
    cors: &'a Cors,
    /// `Access-Control-Allow-Origin`; `None` where the origin is not let.
    origin: Option<HeaderValue>,
}

impl<'a> Grant<'a> {
    /// For a request as the client has sent it; `None` for a rule without such a filter.
    #[must_use]
    pub(super) fn of(filters: &'a [Filter], headers: &HeaderMap) -> Option<Self> {
        let cors = filters.iter().find_map(|filter| match filter {
            Filter::Cors(cors) => Some(cors),
            Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) | Filter::Rewrite(_) | Filter::Mirror(_) => None,
        })?;
        let mut given = headers.get_all(header::ORIGIN).iter();
        let one = match (given.next(), given.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        };
        let origin = match (&cors.origins, cors.credentials) {
            (Origins::Any, false) => Some(HeaderValue::from_static("*")),
            _ => one.filter(|origin| cors.admits(origin)).cloned(),
        };
        Some(Self { cors, origin })
    }

    /// The answer to a preflight; `None` for any other request.
    #[must_use]
    pub(super) fn preflight(&self, parts: &Parts) -> Option<Response<ResponseBody>> {
        let asked = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if parts.method != Method::OPTIONS || !parts.headers.contains_key(header::ORIGIN) {
            return None;
        }
        let mut response = if self.origin.is_some() {
            let mut response = Response::new(ResponseBody::own(""));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        } else {
            respond::plain(StatusCode::FORBIDDEN, "the route does not let pages of this origin use it")
        };
        let headers = response.headers_mut();
        self.apply(headers);
        if self.origin.is_some() {
            let named = |list: &Listed, echo: Option<HeaderValue>| match list {
                Listed::Nothing => None,
                Listed::All if echo.is_some() || self.cors.credentials => echo,
                Listed::All => Some(HeaderValue::from_static("*")),
                Listed::These(names) => Some(names.clone()),
            };
            let method = Method::from_bytes(asked.as_bytes()).is_ok().then(|| asked.clone());
            let names = names(&parts.headers);
            let methods = named(&self.cors.methods, method.filter(|_| self.cors.credentials));
            headers.extend(methods.map(|value| (header::ACCESS_CONTROL_ALLOW_METHODS, value)));
            headers.extend(named(&self.cors.headers, names).map(|value| (header::ACCESS_CONTROL_ALLOW_HEADERS, value)));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.cors.max_age));
        }
        for name in ["access-control-request-method", "access-control-request-headers"] {
            headers.append(header::VARY, HeaderValue::from_static(name));
        }
        Some(response)
    }

    /// Says in a response whose pages may use it.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for name in &OF_RESPONSES {
            headers.remove(name);
        }
        if !matches!((&self.cors.origins, self.cors.credentials), (Origins::Any, false)) {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = &self.origin else { return };
        let exposed = match &self.cors.expose {
            Listed::Nothing => None,
            // With credentials `*` is the name of a field, so the fields that there are are named.
            Listed::All if self.cors.credentials => Some(all_names(headers)),
            Listed::All => Some(HeaderValue::from_static("*")),
            Listed::These(names) => Some(names.clone()),
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.cors.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.extend(exposed.map(|names| (header::ACCESS_CONTROL_EXPOSE_HEADERS, names)));
    }
}

/// The field names that a preflight asks for, in their one form; `None` where one is no name, or there are none or too many.
fn names(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut names: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        work(value.len());
        for name in value.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if names.len() == MOST_NAMES {
                return None;
            }
            names.push(HeaderName::from_bytes(name.as_bytes()).ok()?);
        }
    }
    joined(&names)
}

/// The names of the fields of a response.
fn all_names(headers: &HeaderMap) -> HeaderValue {
    let names: Vec<HeaderName> = headers.keys().filter(|name| **name != header::SET_COOKIE).cloned().collect();
    joined(&names).unwrap_or_else(|| HeaderValue::from_static(""))
}

fn joined(names: &[HeaderName]) -> Option<HeaderValue> {
    let text = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&text).ok().filter(|_| !names.is_empty())
}
