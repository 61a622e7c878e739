//! `HTTPRoute` (gateway.networking.k8s.io/v1), as far as it is read.
//!
//! Enumerations stay text here: a value that is not known is for `model::route` to refuse, with the object's name.
//! What is recognised but not served yet is kept as raw JSON, so that the model can say so instead of ignoring it.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    meta::ObjectMeta,
    route::{ParentRef, Route, RouteKind, RouteStatus},
    wire::{list, or_default},
};

/// A `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: HttpRouteSpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: RouteStatus,
}

impl Route for HttpRoute {
    const ROUTE: RouteKind = RouteKind::Http;

    fn parent_refs(&self) -> &[ParentRef] {
        &self.spec.parent_refs
    }

    fn hostnames(&self) -> &[String] {
        &self.spec.hostnames
    }

    fn status(&self) -> &RouteStatus {
        &self.status
    }
}

/// `spec` of a HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// The Gateways it attaches to.
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<ParentRef>,
    /// The host names it serves, exact or `*.suffix`; those of the listener when empty.
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<String>,
    /// The rules, in order.
    #[serde(deserialize_with = "list")]
    pub rules: Vec<HttpRouteRule>,
}

/// One rule: matches, filters, backends.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One of these must hold; every request matches when empty.
    #[serde(deserialize_with = "list")]
    pub matches: Vec<HttpRouteMatch>,
    /// What is changed on the way.
    #[serde(deserialize_with = "list")]
    pub filters: Vec<HttpRouteFilter>,
    /// Where requests go.
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<HttpBackendRef>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HttpRouteTimeouts>,
    /// What is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<HttpRouteRetry>,
    /// Whether clients come back to their endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// One match: all of its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    /// The path; prefix `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// Headers.
    #[serde(deserialize_with = "list")]
    pub headers: Vec<HttpValueMatch>,
    /// Query parameters.
    #[serde(deserialize_with = "list")]
    pub query_params: Vec<HttpValueMatch>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// How a path must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPathMatch {
    /// `Exact`, `PathPrefix` (the default), `RegularExpression`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The path; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// How a header or a query parameter must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpValueMatch {
    /// `Exact` (the default), `RegularExpression`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Which header or parameter.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its value.
    #[serde(deserialize_with = "or_default")]
    pub value: String,
}

/// A change on the way. `kind` says which of the others is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteFilter {
    /// `RequestHeaderModifier` and so on.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Changes of request headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HttpHeaderFilter>,
    /// Changes of response headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HttpHeaderFilter>,
    /// An answer that sends the client elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<HttpRequestRedirect>,
    /// Changes of host and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<HttpUrlRewrite>,
    /// A filter of somebody's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<Value>,
    /// A copy of the request for somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<HttpRequestMirror>,
    /// Which pages of other origins may use the responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<HttpCorsFilter>,
}

/// A mirror: who gets copies of requests, and of how many.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRequestMirror {
    /// Who gets them: a backendRef without weight and filters.
    #[serde(deserialize_with = "or_default")]
    pub backend_ref: HttpBackendRef,
    /// Of how many of a hundred; of all when this and `fraction` are absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// Of how many, as a fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<HttpFraction>,
}

/// A fraction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpFraction {
    /// So many
    #[serde(deserialize_with = "or_default")]
    pub numerator: i64,
    /// of so many; 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denominator: Option<i64>,
}

/// Cross-origin resource sharing: what pages of other origins may do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCorsFilter {
    /// Origins, `*` in the place of the host or of its first labels; `*` alone for all.
    #[serde(deserialize_with = "list")]
    pub allow_origins: Vec<String>,
    /// Whether cookies and the like may come along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Methods, or `*`.
    #[serde(deserialize_with = "list")]
    pub allow_methods: Vec<String>,
    /// Fields of requests, or `*`.
    #[serde(deserialize_with = "list")]
    pub allow_headers: Vec<String>,
    /// Fields of responses that pages may read, or `*`.
    #[serde(deserialize_with = "list")]
    pub expose_headers: Vec<String>,
    /// How long a preflight's answer may be kept; 5 when absent. Units: seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<i64>,
}

/// Changes of headers: `set` replaces, `add` appends, `remove` deletes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHeaderFilter {
    /// Headers that get exactly this value.
    #[serde(deserialize_with = "list")]
    pub set: Vec<HttpHeader>,
    /// Headers that get one value more.
    #[serde(deserialize_with = "list")]
    pub add: Vec<HttpHeader>,
    /// Headers that go.
    #[serde(deserialize_with = "list")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHeader {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its value.
    #[serde(deserialize_with = "or_default")]
    pub value: String,
}

/// A redirect: what is absent stays as in the request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRequestRedirect {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathModifier>,
    /// The port; that of the scheme, or of the listener, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// 301, 302 (the default), 303, 307, 308.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<i64>,
}

/// A rewrite: what is absent stays as in the request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpUrlRewrite {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathModifier>,
}

/// A change of a path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPathModifier {
    /// `ReplaceFullPath`, `ReplacePrefixMatch`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// What takes the place of the prefix that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// A backend with its share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpBackendRef {
    /// The API group; core when absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind; `Service` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace; the route's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Its share; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// What is changed on the way to this backend.
    #[serde(deserialize_with = "list")]
    pub filters: Vec<HttpRouteFilter>,
}

/// How long a request may take. Units: Gateway API durations, `500ms`, `1m30s`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteTimeouts {
    /// From the request to the end of the response, over all tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// For one try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<String>,
}

/// What is tried again, and how often.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRetry {
    /// Statuses of responses, 400 to 599.
    #[serde(deserialize_with = "list")]
    pub codes: Vec<i64>,
    /// Tries beyond the first; 1 when absent, none when 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// The least pause before a try. Units: Gateway API durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
}

/// Session persistence: clients come back to the endpoint that they have been at. Source: GEP-1619, as of v1.7.0 of Gateway API.
///
/// An API server has the fields of v1.7.0 or those of the releases before it, never both: it drops what its definitions lack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    /// `Cookie` (the default), `Header`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How long a session lasts. Units: Gateway API durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<String>,
    /// The cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<SessionCookie>,
    /// The field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<SessionHeader>,
    /// Before v1.7.0: the name of the cookie or the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// Before v1.7.0: how long it lasts without a request. Units: Gateway API durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// Before v1.7.0: what is to be said of the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

/// The cookie of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionCookie {
    /// Its name; one is made up when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long a browser keeps it: `Session` (the default), `Permanent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<String>,
    /// For which paths a browser shows it; `/` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// The field of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionHeader {
    /// Its name; one is made up when absent, which only the releases before v1.7.0 allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Before v1.7.0: how long a browser keeps the cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    /// `Session` (the default), `Permanent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_route_and_ignores_what_it_does_not_know() {
        let route: HttpRoute = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "shop"},
            "spec": {
                "useDefaultGateways": "None",
                "parentRefs": [{"name": "edge", "sectionName": "web", "port": 80}],
                "hostnames": ["shop.example.com"],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/cart"}, "method": "GET",
                        "headers": [{"name": "x-sandbox", "value": "pr-7"}],
                        "queryParams": [{"type": "RegularExpression", "name": "v", "value": "1.*"}]}],
                    "filters": [{"type": "URLRewrite", "urlRewrite": {"path":
                        {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}],
                    "backendRefs": [{"name": "cart", "port": 8080, "weight": 9}],
                    "timeouts": {"request": "10s", "backendRequest": "2s"},
                    "retry": {"attempts": 2}
                }]
            },
            "status": {"parents": []}
        }))
        .unwrap();
        let rule = &route.spec.rules[0];
        assert_eq!(route.metadata.namespace, "default");
        assert_eq!(rule.matches[0].headers[0].value, "pr-7");
        assert_eq!(rule.matches[0].query_params[0].kind.as_deref(), Some("RegularExpression"));
        assert_eq!(rule.backend_refs[0].weight, Some(9));
        assert!(rule.retry.is_some());
        assert_eq!(rule.timeouts.as_ref().unwrap().backend_request.as_deref(), Some("2s"));
    }
}
