//! `TLSRoute`, `TCPRoute` and `UDPRoute` (gateway.networking.k8s.io/v1), as far as they are read: backends for connections
//! and datagrams that nobody looks into.
use serde::{Deserialize, Serialize};

use super::{
    meta::ObjectMeta,
    route::{BackendRef, ParentRef, Route, RouteKind, RouteStatus},
    wire::{list, or_default},
};

macro_rules! stream_routes {
    ($($name:ident, $kind:ident, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            /// Name, labels and so on.
            #[serde(deserialize_with = "or_default")]
            pub metadata: ObjectMeta,
            /// What is wanted.
            #[serde(deserialize_with = "or_default")]
            pub spec: StreamRouteSpec,
            /// What became of it.
            #[serde(deserialize_with = "or_default")]
            pub status: RouteStatus,
        }

        impl Route for $name {
            const ROUTE: RouteKind = RouteKind::$kind;

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
    )*};
}

stream_routes! {
    TlsRoute, Tls, "A `TLSRoute`: connections by the name that the client asks for in its TLS hello (SNI).";
    TcpRoute, Tcp, "A `TCPRoute`: all connections of a listener.";
    UdpRoute, Udp, "A `UDPRoute`: all datagrams of a listener.";
}

/// `spec` of these kinds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRouteSpec {
    /// The Gateways it attaches to.
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<ParentRef>,
    /// The names it serves, exact or `*.suffix`; of a TLSRoute alone.
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<String>,
    /// Its one rule.
    #[serde(deserialize_with = "list")]
    pub rules: Vec<StreamRouteRule>,
}

/// A rule: where connections go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The backends with their shares.
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<BackendRef>,
}
