//! What the routes of all kinds share: parents, status, plain references to backends.
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Kind, ObjectName,
    condition::Condition,
    wire::{list, or_default},
};

/// The kinds of routes, in the order in which reports and status have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `HTTPRoute`.
    Http,
    /// `GRPCRoute`.
    Grpc,
    /// `TLSRoute`.
    Tls,
    /// `TCPRoute`.
    Tcp,
    /// `UDPRoute`.
    Udp,
}

impl RouteKind {
    /// As the API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A route of some kind, as far as its kind does not matter.
pub trait Route: Kind<Key = ObjectName> {
    /// Which kind it is.
    const ROUTE: RouteKind;

    /// Where it wants to be attached.
    fn parent_refs(&self) -> &[ParentRef];

    /// The host names that it serves; none for kinds that have none.
    fn hostnames(&self) -> &[String];

    /// What became of it.
    fn status(&self) -> &RouteStatus;
}

/// `status` of a route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteStatus {
    /// One for each controller and parent, a [`RouteParentStatus`] as written: those of others are written back as they
    /// were, with whatever is in them.
    #[serde(deserialize_with = "list")]
    pub parents: Vec<Value>,
}

/// What one controller says of a route at one of its parents.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteParentStatus {
    /// The parent, as the route names it.
    #[serde(deserialize_with = "or_default")]
    pub parent_ref: ParentRef,
    /// Whose entry it is.
    #[serde(deserialize_with = "or_default")]
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid`.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
}

/// A reference to a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    /// The API group; gateway.networking.k8s.io when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind; `Gateway` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace; the route's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The listener's name; all listeners when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The listener's port; all ports when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A backend with its share, of a route without filters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendRef {
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
}
