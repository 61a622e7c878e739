//! `Gateway` (gateway.networking.k8s.io/v1), as far as it is read.
//!
//! Enumerations stay text here: a value that is not known is for `model::gateway` to refuse, with the object's name.
use serde::{Deserialize, Serialize};

use super::{LabelSelector, meta::ObjectMeta};

/// A `Gateway`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Name, labels and so on.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: GatewaySpec,
    /// What was given.
    pub status: GatewayStatus,
}

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Whose Gateway it is.
    pub gateway_class_name: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// The addresses asked for.
    pub addresses: Vec<GatewayAddress>,
}

/// `status` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// The addresses it has.
    pub addresses: Vec<GatewayAddress>,
}

/// An address that is asked for or given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAddress {
    /// `IPAddress` (the default), `Hostname` or a name with a domain.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The address; without one any address will do.
    pub value: Option<String>,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name, unique in the Gateway.
    pub name: String,
    /// The host name it serves, exact or `*.suffix`; all when absent.
    pub hostname: Option<String>,
    /// The port.
    pub port: i64,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`.
    pub protocol: String,
    /// Which routes may attach.
    pub allowed_routes: AllowedRoutes,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: RouteNamespaces,
    /// Of which kinds; those that fit the protocol when empty.
    pub kinds: Vec<RouteGroupKind>,
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteNamespaces {
    /// `Same` (the default), `All`, `Selector`, `None`.
    pub from: Option<String>,
    /// For `Selector`: the labels of the namespace.
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteGroupKind {
    /// The API group; gateway.networking.k8s.io when absent.
    pub group: Option<String>,
    /// The kind.
    pub kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_gateway_and_ignores_what_it_does_not_know() {
        let gateway: Gateway = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "edge", "namespace": "infra"},
            "spec": {
                "gatewayClassName": "sluice",
                "infrastructure": {"labels": {"a": "b"}},
                "addresses": [{"type": "IPAddress", "value": "192.0.2.10"}, {"value": "2001:db8::1"}],
                "listeners": [{"name": "web", "port": 80, "protocol": "HTTP", "hostname": "*.example.com",
                    "allowedRoutes": {"namespaces": {"from": "All"}, "kinds": [{"kind": "HTTPRoute"}]}}]
            },
            "status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.10"}]}
        }))
        .unwrap();
        assert_eq!(gateway.spec.gateway_class_name, "sluice");
        assert_eq!(gateway.spec.addresses[1].value.as_deref(), Some("2001:db8::1"));
        assert_eq!(gateway.spec.listeners[0].allowed_routes.namespaces.from.as_deref(), Some("All"));
        assert_eq!(gateway.spec.listeners[0].allowed_routes.kinds[0].kind, "HTTPRoute");
        assert_eq!(gateway.status.addresses.len(), 1);
    }
}
