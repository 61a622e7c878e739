//! `GRPCRoute` (gateway.networking.k8s.io/v1), as far as it is read.
//!
//! Filters, header matches and backends are those of a HTTPRoute, of which the API has fewer here; those that it does not
//! have are refused by the schema.
use serde::{Deserialize, Serialize};

use super::{
    http_route::{HttpBackendRef, HttpRouteFilter, HttpValueMatch, SessionPersistence},
    meta::ObjectMeta,
    route::{ParentRef, Route, RouteKind, RouteStatus},
    wire::{list, or_default},
};

/// A `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRoute {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: GrpcRouteSpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: RouteStatus,
}

impl Route for GrpcRoute {
    const ROUTE: RouteKind = RouteKind::Grpc;

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

/// `spec` of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    /// The Gateways it attaches to.
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<ParentRef>,
    /// The host names it serves, exact or `*.suffix`; those of the listener when empty.
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<String>,
    /// The rules, in order.
    #[serde(deserialize_with = "list")]
    pub rules: Vec<GrpcRouteRule>,
}

/// One rule: matches, filters, backends.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One of these must hold; every call matches when empty.
    #[serde(deserialize_with = "list")]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is changed on the way.
    #[serde(deserialize_with = "list")]
    pub filters: Vec<HttpRouteFilter>,
    /// Where calls go.
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Whether clients come back to their endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// One match: all of its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteMatch {
    /// Service and method; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// Headers, which gRPC calls metadata.
    #[serde(deserialize_with = "list")]
    pub headers: Vec<HttpValueMatch>,
}

/// How service and method must be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMethodMatch {
    /// `Exact` (the default), `RegularExpression`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The service with its package, `helloworld.Greeter`; any when absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method, `SayHello`; any when absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}
